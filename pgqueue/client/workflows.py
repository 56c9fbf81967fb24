"""Workflows as people use them: enqueued, seen, waited for, cancelled, retried."""

import asyncio
import builtins
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from pgqueue.client.actor import who
from pgqueue.client.adding import add_to, compiled, refuse_older, seal, stop_and_seal
from pgqueue.client.app_parts import AppParts
from pgqueue.client.bulk import check_reason, check_text
from pgqueue.client.settings import check_before, check_limit
from pgqueue.client.steps import CURRENT_CONNECTION, StepRunner, Steps, all_or_nothing, verb
from pgqueue.client.waiting import MAX_ID, check_id
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import (
    InvalidOption,
    UnknownWorkflow,
    WaitTimeout,
    WorkflowIncomplete,
    WorkflowRunning,
)
from pgqueue.events import WaitingJobCancelled
from pgqueue.printable import one_line
from pgqueue.queries.jobs.ties import TiedEnds
from pgqueue.queries.workflows import WorkflowQueries
from pgqueue.queries.workflows.enqueue import InsertedWorkflow
from pgqueue.queries.workflows.read import WorkflowEdge, WorkflowGroup, WorkflowJob, WorkflowStatus
from pgqueue.queries.workflows.retry import LockedWorkflow, Revived
from pgqueue.tasks.added import Addable, AddedNode, AfterAdded
from pgqueue.tasks.sealing import sealed_by
from pgqueue.timing import LIMIT, check_optional_duration, monotonic
from pgqueue.workflows.check import check
from pgqueue.workflows.drawing import Drawing
from pgqueue.workflows.graph import Edge, Graph, Group

R = TypeVar("R")
STATES = ("running", "succeeded", "failed", "cancelled")
BATCH = 500  # jobs that one statement of a cancellation ends
MOST_READ = 100_000  # jobs or edges of one workflow
MOST_ERRORS = 1_000  # of which a picture shows the first line
FIRST_LOOK, LAST_LOOK = 0.02, 0.5  # seconds between two looks of a wait


@dataclass(frozen=True, slots=True)
class CancelledWorkflow:
    """What the cancel of a workflow has done; false if the workflow had ended.

    `cancelled`: how many jobs had not begun, and have ended. `asked`: how many run and are asked to stop: an async job
    stops where it waits, a `def` task where it calls `ctx.check()`, and the workflow ends with the last of them.
    """

    had_ended: bool
    cancelled: int = 0
    asked: int = 0

    def __bool__(self) -> bool:
        return not self.had_ended


class Workflows:
    """The verbs on workflows: `app.workflows`. Each has an async twin with an `a`; that of `wait` is `await_end`."""

    def __init__(self, app: AppParts, conn: object = CURRENT_CONNECTION) -> None:
        self._app = app
        self._conn = conn
        self._runner = StepRunner(app, conn)

    def using(self, conn: object) -> "Workflows":
        """Bind a connection to borrow: what these verbs do takes effect with the rest of its transaction, or not at
        all."""
        return Workflows(self._app, conn)

    @property
    def _queries(self) -> WorkflowQueries:
        return self._app.queries.workflows

    @verb
    def enqueue(self, graph: Graph) -> Steps[InsertedWorkflow]:
        """Insert a graph with all its jobs; return their ids.

        Raises InvalidWorkflow, and OlderReleaseRuns while a worker lives that knows no workflows, before anything is
        written.
        """
        check(graph)
        yield from refuse_older(self._queries, is_open=not graph.sealed)
        inserted: InsertedWorkflow = yield self._queries.enqueue(graph)
        return inserted

    aenqueue = enqueue.twin

    @verb
    @all_or_nothing
    def add(
        self,
        workflow: int,
        part: Addable[R],
        /,
        *,
        after: AfterAdded | Iterable[AfterAdded] = (),
        name: str | None = None,
    ) -> Steps[AddedNode[R]]:
        """Add a signature, a canvas or a workflow to a workflow that runs; return it as a node, for what is added next.

        It waits for what stands in `after`, nodes that `add` has returned and jobs of the workflow, by their ids, and
        for the nodes among its arguments; what has ended already counts at once. The workflow does not end before it.
        An end of the workflow waits until the caller's transaction commits, unless the workflow is open.

        Raises WorkflowEnded, UnknownWorkflow, InvalidWorkflow for a circle and for what is nothing of the workflow,
        InvalidArguments, and OlderReleaseRuns.
        """
        new = compiled(self._app, part, after, name)
        yield from self._known(workflow)
        yield from refuse_older(self._queries, is_open=True)
        return AddedNode((yield from add_to(self._queries, workflow, new)))

    aadd = add.twin

    @verb
    @all_or_nothing
    def seal(self, workflow: int) -> Steps[bool]:
        """Seal an open workflow: it ends with its last job, perhaps now, and it is added to as to any other.

        Waits for those who add to it in transactions of their own. Returns False if it was sealed already. Raises
        UnknownWorkflow.
        """
        yield from self._known(workflow)
        return (yield from seal(self._queries, workflow))

    aseal = seal.twin

    @verb
    def get(self, workflow: int) -> Steps[WorkflowStatus]:
        """Return how a workflow stands. Raises UnknownWorkflow."""
        found: WorkflowStatus | None = yield self._queries.get(_possible(workflow))
        if found is None:
            raise (yield from self._refusal(workflow))
        return found

    aget = get.twin

    @verb
    def list(
        self, state: str | None = None, *, name: str | None = None, limit: int = 100, before: int | None = None
    ) -> Steps[builtins.list[WorkflowStatus]]:
        """Return the newest workflows, those in one state and with one name if these are given.

        `name` may have `*` for any characters. `before`: only those with lower ids. The newest 200,000 workflows and
        groups are looked at. Raises InvalidOption.
        """
        if state is not None and state not in STATES:
            raise InvalidOption(f"state={state!r:.100} cannot be used: give {', '.join(STATES)}")
        chosen = None if name is None else check_text("name", name)
        found: builtins.list[WorkflowStatus] = yield self._queries.list(
            state, check_before(before), check_limit(limit), chosen
        )
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def jobs(self, workflow: int, limit: int = MOST_READ) -> Steps[builtins.list[WorkflowJob]]:
        """Return the jobs of a workflow, in the order in which they were inserted. Raises UnknownWorkflow."""
        yield from self._known(workflow)
        found: builtins.list[WorkflowJob] = yield self._queries.jobs(workflow, check_limit(limit))
        return found

    ajobs = jobs.twin

    @verb
    def edges(self, workflow: int, limit: int = MOST_READ) -> Steps[builtins.list[WorkflowEdge]]:
        """Return which jobs of a workflow run after which jobs or groups. Raises UnknownWorkflow."""
        yield from self._known(workflow)
        found: builtins.list[WorkflowEdge] = yield self._queries.edges(workflow, check_limit(limit))
        return found

    aedges = edges.twin

    @verb
    def draw(self, workflow: int) -> Steps[Drawing]:
        """Return a picture of a workflow with the state of each job: `.text()`, `.mermaid()` or `.json()`.

        It shows the tasks, the ids and the states of the jobs, of those that have failed the first line of the error
        as well, and no arguments. Raises UnknownWorkflow.
        """
        yield from self._known(workflow)
        jobs: builtins.list[WorkflowJob] = yield self._queries.jobs(workflow, MOST_READ)
        edges: builtins.list[WorkflowEdge] = yield self._queries.edges(workflow, MOST_READ)
        groups: builtins.list[WorkflowGroup] = yield self._queries.groups(workflow, MOST_READ)
        errors: Mapping[int, ErrorInfo] = yield self._queries.errors(workflow, MOST_ERRORS)
        return drawing(jobs, edges, groups, errors)

    adraw = draw.twin

    @verb
    def cancel(self, workflow: int, reason: str | None = None, *, by: str | None = None) -> Steps[CancelledWorkflow]:
        """Cancel a workflow: jobs that have not begun end as cancelled, and those that run are asked to stop. One that
        is open is sealed.

        Its callbacks are no members and go on: those on its end run. Members that others hold for a moment are ended
        by a worker. Returns how many of both; what it returns is false for a workflow that has ended. Raises
        UnknownWorkflow.
        """
        why = f"cancelled by {who(by)}" if reason is None else check_reason(reason)
        yield from self._known(workflow)
        running: bool = yield from stop_and_seal(self._queries, workflow, why)
        cancelled = asked = 0
        more = running
        while more:
            stopped: TiedEnds = yield self._queries.stop(BATCH, workflow)
            for job in stopped.cancelled:
                self._app.listeners.emit(WaitingJobCancelled(*job))
            settled: TiedEnds = yield self._queries.settle(BATCH, workflow)
            more = bool(stopped.moved or settled.moved)
            cancelled += len(stopped.cancelled)
            asked += len(stopped.moved) - len(stopped.cancelled)
        return CancelledWorkflow(not running, cancelled, asked)

    acancel = cancel.twin

    @verb
    @all_or_nothing
    def retry(self, workflow: int, *, by: str | None = None) -> Steps[int]:
        """Run a workflow again from what failed; return how many jobs came back, under the same ids.

        Dead letters and cancelled jobs come back, with what was skipped for them. What has succeeded does not run
        again, and neither do callbacks that ran. Raises WorkflowRunning while jobs of it wait or run,
        WorkflowIncomplete if retention has dropped some, and UnknownWorkflow.
        """
        actor = who(by)
        locked: LockedWorkflow | None = yield self._queries.lock_for_retry(_possible(workflow))
        if locked is None or locked.root_id != locked.id:
            raise (yield from self._refusal(workflow))
        if locked.state == "running":
            raise WorkflowRunning(workflow)
        if not locked.settled:
            yield self._queries.settle(BATCH, workflow)
        revived: Revived = yield self._queries.revive(locked, f"retried by {actor}")
        if revived.living:
            raise WorkflowRunning(workflow)
        if revived.ended != locked.jobs:
            raise WorkflowIncomplete(workflow, locked.jobs - revived.ended)
        return revived.revived

    aretry = retry.twin

    def wait(self, workflow: int, timeout: float | timedelta | None = None) -> WorkflowStatus:
        """Wait until a workflow has ended, at most `timeout` seconds; return how it stands then.

        Callbacks may run on. Raises WaitTimeout and UnknownWorkflow. Must not be called in an event loop.
        """
        wait = _Wait(workflow, timeout)
        while (status := self.get(workflow)).state == "running":
            time.sleep(wait.delay())
        return status

    async def await_end(self, workflow: int, timeout: float | timedelta | None = None) -> WorkflowStatus:
        """The async twin of `wait`."""
        wait = _Wait(workflow, timeout)
        while (status := await self.aget(workflow)).state == "running":  # noqa: ASYNC110
            await asyncio.sleep(wait.delay())  # nothing tells when a workflow has ended
        return status

    def _known(self, workflow: int) -> Steps[None]:
        """Refuse an id that is no workflow's."""
        found: tuple[str, int] | None = yield self._queries.state(_possible(workflow))
        if found is None or found[1] != workflow:
            raise (yield from self._refusal(workflow))

    def _refusal(self, workflow: int) -> Steps[UnknownWorkflow]:
        """Return the error for an id that is no workflow's: what it is, and what to give for it."""
        found: tuple[str, int] | None = yield self._queries.state(workflow)
        if found is not None:
            return UnknownWorkflow(
                f"{workflow} is a group within a workflow: give the id of the workflow, as in "
                f"`pgqueue workflows show {found[1]}`"
            )
        job: tuple[int | None] | None = yield self._queries.of_job(workflow)
        if job is None:
            return _unknown(workflow)
        if job[0] is None:
            return UnknownWorkflow(f"{workflow} is a job, and of no workflow: see `pgqueue jobs show {workflow}`")
        return UnknownWorkflow(f"{workflow} is a job of workflow {job[0]}: see `pgqueue workflows show {job[0]}`")


def drawing(
    jobs: builtins.list[WorkflowJob],
    edges: builtins.list[WorkflowEdge],
    groups: builtins.list[WorkflowGroup],
    errors: Mapping[int, ErrorInfo],
) -> Drawing:
    """Return the picture of a stored workflow. Edges to what retention has dropped are left out."""
    at = {group.id: number for number, group in enumerate(groups)}
    units = {job.id: number for number, job in enumerate(jobs)} | {id_: -1 - number for id_, number in at.items()}
    return Drawing(
        [job.task for job in jobs],
        [None if job.group is None else at.get(job.group) for job in jobs],
        [
            Edge(units[edge.parent], units[edge.child], edge.when, edge.argument, edge.position)
            for edge in edges
            if edge.parent in units and edge.child in units
        ],
        [Group(one.name, None if one.parent is None else at.get(one.parent), one.on_failure) for one in groups],
        [job.id for job in jobs],
        [job.state for job in jobs],
        {number: _in_words(errors[job.id]) for number, job in enumerate(jobs) if job.id in errors},
    )


def _in_words(error: ErrorInfo) -> str:
    """Return an error in one line that is safe for terminals."""
    message = sealed_by(error.message) or error.message
    return one_line(f"{error.type}: {message}" if message else error.type)


class _Wait:
    """One wait for a workflow: looks at growing intervals."""

    def __init__(self, workflow: int, timeout: float | timedelta | None) -> None:
        allowed = check_optional_duration("timeout", timeout, LIMIT)
        self._workflow = workflow
        self._allowed = allowed
        self._ends_at = None if allowed is None else monotonic() + allowed
        self._delay = FIRST_LOOK

    def delay(self) -> float:
        """Return the seconds to the next look. Raises WaitTimeout if no time is left."""
        left = LAST_LOOK if self._ends_at is None else self._ends_at - monotonic()
        if left <= 0:
            raise WaitTimeout(f"workflow {self._workflow} has not ended within {self._allowed:g} s: it goes on")
        self._delay, delay = min(2 * self._delay, LAST_LOOK), min(self._delay, left)
        return delay


def _possible(workflow: object) -> int:
    """Return a number that Postgres can look for. Raises UnknownWorkflow for another, InvalidOption if it is none."""
    if type(workflow) is not int:
        return check_id(workflow)
    if abs(workflow) > MAX_ID:
        raise _unknown(workflow)
    return workflow


def _unknown(workflow: int) -> UnknownWorkflow:
    return UnknownWorkflow(f"no workflow {workflow}: never committed, or dropped by retention")
