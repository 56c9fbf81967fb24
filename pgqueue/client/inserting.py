"""Inserting jobs: a call becomes a NewJob, that becomes a row, and the row the Job that the caller gets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic_core import from_json

from pgqueue.client.admission import Bulk, admit, admit_all
from pgqueue.client.app_parts import AppParts
from pgqueue.client.chunks import array_chunks
from pgqueue.client.settings import CallSettings
from pgqueue.client.steps import StepRunner, Steps, all_or_nothing
from pgqueue.client.waiting import WaitHandle
from pgqueue.events import JobEnqueued
from pgqueue.jobs.flow import Flow
from pgqueue.jobs.job import MAX_CRASHES, Job, JobState, NewJob
from pgqueue.queries.jobs.enqueue import AdmissionResult, InsertedJob, keyed_headers
from pgqueue.tasks.context import running_job_of
from pgqueue.tasks.spec import TaskSpec
from pgqueue.timing import seconds


class JobInserter(StepRunner):
    """Inserts jobs where its steps run, and emits JobEnqueued for each new one."""

    def insert(self, new: NewJob, *, hooked: bool = True) -> Job:
        """Insert a job; or return the existing job that holds its key."""
        app, backend = self._app, self._app.backend
        if hooked and app.enqueue_hooks:
            with app.enqueue_hooks.around(new) as call:
                job = self.insert(new, hooked=False)
                call.job_ids = (job.id,)
                return job
        if new.conditions is None and new.queue not in app.max_depth:  # a generator costs a sixth more
            job = self.emit(as_job(new, self.run(backend.queries.jobs.enqueue_one(new)), self.handle))
        else:
            job = self.perform(self._insert_or_find(new))
        return job if backend.inline is None else backend.inline.run(job)

    async def ainsert(self, new: NewJob, *, hooked: bool = True) -> Job:
        """The async twin of `insert`."""
        app, backend = self._app, self._app.backend
        if hooked and app.enqueue_hooks:
            with app.enqueue_hooks.around(new) as call:
                job = await self.ainsert(new, hooked=False)
                call.job_ids = (job.id,)
                return job
        if new.conditions is None and new.queue not in app.max_depth:
            job = self.emit(as_job(new, await self.arun(backend.queries.jobs.enqueue_one(new)), self.handle))
        else:
            job = await self.aperform(self._insert_or_find(new))
        return job if backend.inline is None else await backend.inline.arun(job)

    def insert_many(self, steps: Steps[list[int]]) -> list[int]:
        """Run `plain_bulk` or `conditional_bulk`; return the ids."""
        ids, inline = self.perform(steps), self._app.backend.inline
        return ids if inline is None else inline.run_many(ids)

    async def ainsert_many(self, steps: Steps[list[int]]) -> list[int]:
        """The async twin of `insert_many`."""
        ids, inline = await self.aperform(steps), self._app.backend.inline
        return ids if inline is None else await inline.arun_many(ids)

    def _insert_or_find(self, new: NewJob) -> Steps[Job]:
        queries = self._app.backend.queries
        yield from self._check_depth(new.queue, 1)
        if new.conditions is None:
            return self.emit(as_job(new, (yield queries.jobs.enqueue_one(new)), self.handle))
        result = yield from admit(queries, new)
        if result.admitted:
            return self.emit(as_job(new, result.inserted, self.handle))
        found = (yield queries.jobs.get(result.id)) if result.readable else None
        return as_existing(new, result, found, self.handle)

    @all_or_nothing
    def plain_bulk(self, shared: NewJob, blocks: Sequence[tuple[int, str]]) -> Steps[list[int]]:
        """Insert jobs that differ in their arguments alone, in chunks, all of them or none.

        `blocks`: pairs of a number of jobs and the JSON objects of their arguments, separated by commas.
        """
        queries, ids = self._app.backend.queries, list[int]()
        yield from self._check_depth(shared.queue, sum(count for count, _ in blocks))
        for _, chunk in array_chunks(blocks):
            new_ids: list[int] = yield queries.jobs.enqueue_many(shared, chunk)
            self._emit_many(shared, new_ids)
            ids += new_ids
        return ids

    @all_or_nothing
    def metered_bulk(
        self, shared: NewJob, blocks: Sequence[tuple[int, str]], flows: Sequence[Flow | None]
    ) -> Steps[list[int]]:
        """Insert jobs as `plain_bulk` does, each with its own flow."""
        queries, ids = self._app.backend.queries, list[int]()
        yield from self._check_depth(shared.queue, len(flows))
        for count, chunk in array_chunks(blocks):
            chosen = flows[len(ids) : len(ids) + count]
            new_ids: list[int] = yield queries.jobs.enqueue_many_metered(shared, chunk, chosen)
            self._emit_many(shared, new_ids)
            ids += new_ids
        return ids

    def conditional_bulk(self, bulk: Bulk) -> Steps[list[int]]:
        """Insert jobs with conditions, all of them or none."""
        if not len(bulk):
            return []
        yield from self._check_depth(bulk.shared.queue, len(bulk))
        admitted = yield from admit_all(self._app.backend.queries, bulk.admitted)
        self._emit_many(bulk.shared, admitted.new)
        return admitted.ids

    def _check_depth(self, queue: str, more: int) -> Steps[None]:
        """Raise QueueFull if so many more jobs do not fit into a queue."""
        depths = self._app.depths
        limit = depths.limit_to_read(queue, more)
        if limit is not None:
            depths.note(queue, (yield self._app.backend.queries.jobs.depth(queue, limit)))
        depths.add(queue, more)

    def emit(self, job: Job) -> Job:
        """Emit JobEnqueued for a new job."""
        if self._app.listeners:
            self._app.listeners.emit(JobEnqueued(job.id, job.task, job.queue))
        return job

    def _emit_many(self, shared: NewJob, ids: list[int]) -> None:
        if self._app.listeners:
            for job_id in ids:
                self._app.listeners.emit(JobEnqueued(job_id, shared.task, shared.queue))


def new_job(
    args: str,
    settings: CallSettings,
    spec: TaskSpec | None,
    name: str,
    app: AppParts,
    values: Mapping[str, Any] | None = None,
) -> NewJob:
    """Make the job of one call. Where the call sets nothing the task does, and then the app.

    `values` are the arguments as Python objects, for rules that make keys of them. Without them the job has no flow if
    that depends on them.
    """
    if spec is not None:
        spec.check_priority(settings.priority)
    own = app.routes.of(name) if spec is None else spec  # of a task of another app its route is known
    queue = settings.queue or own.queue or app.queue
    return NewJob(
        task=name,
        args=args,
        queue=queue,
        priority=settings.priority if settings.priority is not None else own.priority or 0,
        max_attempts=settings.max_attempts or own.max_attempts or app.max_attempts,
        run_at=settings.run_at,
        delay=None if settings.delay is None else seconds(settings.delay),
        tags=tuple(settings.tags) if settings.tags is not None else (spec.tags if spec else ()),
        history=app.retention.get(queue) is None and (spec is None or spec.retention is None),
        conditions=None
        if settings.rules is None
        else settings.rules.conditions(name, partial(_whole, spec, args), values or {}, None),
        version=spec.version if spec else settings.version or 1,
        max_crashes=spec.max_crashes if spec else MAX_CRASHES,
        headers=settings.headers,
        dead_letter_task=None
        if spec is None or spec.dead_letter_task is None
        else app.tasks.dead_letter_target(spec, app.queue),
        flow=app.tasks.flow(spec, name, queue, values, settings.keys)
        if app.tasks.queue_rules or settings.keys is not None or (spec is not None and spec.metering is not None)
        else None,
        by=running_job_of(app.tasks),
    )


def _whole(spec: TaskSpec | None, args: str) -> dict[str, Any]:
    whole: dict[str, Any] = spec.coder.complete_text(args) if spec else json.loads(args)
    return whole


def as_job(new: NewJob, row: InsertedJob, handle: WaitHandle | None = None) -> Job:
    """Return the Job of a row that was just inserted."""
    headers = new.headers if new.conditions is None else keyed_headers(new)
    return Job(
        id=row.id,
        task=new.task,
        queue=new.queue,
        priority=new.priority,
        state=JobState.PENDING if new.flow is None else JobState.BLOCKED,
        phase="scheduled" if row.run_at > row.created_at else "pending" if new.flow is None else "blocked",
        waits_for=None if new.flow is None else "turn",
        args=from_json(new.args),
        tags=new.tags,
        run_at=row.run_at,
        created_at=row.created_at,
        attempt=0,
        max_attempts=new.max_attempts,
        headers=json.loads(headers) if headers else {},
        enqueued_by=new.by,
        handle=handle,
    )


def as_existing(new: NewJob, result: AdmissionResult, found: Job | None, handle: WaitHandle) -> Job:
    """Return the job that holds the key of a new one. One that is gone, or that this role may not read, has only the
    fields that are known with its key."""
    if found is not None:
        return replace(found, existing=True, handle=handle)
    known = as_job(new, result.inserted, handle)
    if result.readable:
        return replace(known, existing=True, state=JobState.SUCCEEDED, phase="pruned", reason="it has ended")
    return replace(known, existing=True, phase="unknown")
