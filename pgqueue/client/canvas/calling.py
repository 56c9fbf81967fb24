"""Calls from a step: the jobs that they become are inserted with the record of the step, all or none."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.canvas.building import Ends, GraphBuilder
from pgqueue.client.canvas.canvas import Canvas, Signature
from pgqueue.client.steps import Steps, all_or_nothing
from pgqueue.errors import InvalidStep, LeaseLost, OlderReleaseRuns
from pgqueue.events import JobEnqueued
from pgqueue.jobs.job import ClaimedJob, NewJob
from pgqueue.jobs.step import RecordedStep
from pgqueue.queries.jobs.enqueue import InsertedJob
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.tasks.calls import shape_text
from pgqueue.tasks.journal import AlreadyRecorded, Call
from pgqueue.workflows.check import check
from pgqueue.workflows.graph import Graph

KNOWS = "0042"  # the version of the schema that a worker must know: the migration that made calls


class Caller:
    """Inserts the jobs of one step's calls. `inserted`: the ids of all of them, in the order in which they may run."""

    def __init__(self, app: AppParts, job: ClaimedJob, request: Call) -> None:
        self._app = app
        self._job = job
        self._request = request
        self._plain: list[tuple[int, NewJob]] = []  # each with the place of its result
        self._graphs: list[tuple[Graph, list[tuple[int | None, int]]]] = []  # with places and nodes
        self._lengths: list[int | None] = []
        self.inserted: list[int] = []
        places = 0
        for call in request.calls:
            places += self._place(call, places)

    @all_or_nothing
    def steps(self) -> Steps[RecordedStep]:
        """Insert the jobs and record the step. Raises LeaseLost, and AlreadyRecorded if another attempt was first."""
        queries, request = self._app.backend.queries, self._request
        older: str | None = yield queries.workflows.find_older(KNOWS)
        if older is not None:
            raise OlderReleaseRuns(
                f"worker {older} knows no calls of steps, and would end called jobs without telling who waits: "
                "replace it first"
            )
        called: list[tuple[int | None, int]] = []
        if self._plain:
            rows: list[InsertedJob] = yield queries.jobs.enqueue([job for _, job in self._plain])
            called += [(place, row.id) for (place, _), row in zip(self._plain, rows, strict=True)]
            self.inserted += [row.id for row in rows]
            self._emit(rows)
        for graph, ends in self._graphs:
            whole: InsertedWorkflow = yield queries.workflows.enqueue(graph)
            called += [(place, whole.jobs[node]) for place, node in ends]
            self.inserted += whole.jobs
        step = replace(request.step, value=shape_text(self._lengths, many=request.many))
        recorded: RecordedStep | None = yield queries.calls.record(
            self._job, step, [job for _, job in called], [place for place, _ in called]
        )
        if recorded is None:
            raise LeaseLost(f"job {self._job.id} is no longer this worker's: nothing was called")
        if not recorded.fresh:
            raise AlreadyRecorded(recorded)
        return recorded

    def _place(self, call: object, first: int) -> int:
        """Prepare a call; return how many results it has. Raises InvalidStep, and what `enqueue` does of a canvas."""
        if not isinstance(call, Canvas):
            raise InvalidStep(
                f"{call!r:.100} cannot be called by step {self._request.step.name!r}: give a call of a task, such as "
                "resize.s(7), or a canvas"
            )
        if isinstance(call, Signature) and not call.has_callbacks:
            self._plain.append((first, self._checked(call)))
            self._lengths.append(None)
            return 1
        builder = GraphBuilder(call.title)
        ends = call.place(builder, None, 0, is_root=True)
        graph = builder.finish()
        if builder.app is not None:
            self._check_app(builder.app)
            nodes = list(enumerate(_nodes(graph, ends.sources), first))
            self._graphs.append((check(graph), [*nodes, *((None, node) for node in _after(graph, ends))]))
        self._lengths.append(len(ends.sources) if ends.is_list else None)
        return len(ends.sources)

    def _checked(self, call: Signature[Any, Any]) -> NewJob:
        self._check_app(call.app)
        job = call.job()
        conditions = job.conditions
        if conditions is not None and (conditions.key is not None or conditions.unique is not None):
            raise InvalidStep(
                f"{job.task} cannot be called with an idempotency key or a unique key: its step "
                f"{self._request.step.name!r} is its key, for it calls once"
            )
        job.history = True  # its result is read when it has ended
        return job

    def _check_app(self, app: AppParts) -> None:
        if app.tasks is not self._app.tasks:
            raise InvalidStep(f"step {self._request.step.name!r} calls a task of another app: call one of its own app")

    def _emit(self, rows: Sequence[InsertedJob]) -> None:
        if self._app.listeners:
            for (_, job), row in zip(self._plain, rows, strict=True):
                self._app.listeners.emit(JobEnqueued(row.id, job.task, job.queue))


def _nodes(graph: Graph, sources: Sequence[int]) -> Iterator[int]:
    """Yield the nodes of sources, of which some may be groups."""
    for source in sources:
        if source >= 0:
            yield source
        else:
            yield from (node for node, group in enumerate(graph.group_of) if group == -1 - source)


def _after(graph: Graph, ends: Ends) -> Iterator[int]:
    """Yield the nodes that are waited for without their results."""
    for each in ends.after:
        yield from _nodes(graph, each.sources)
        yield from _after(graph, each)
