"""Keeps the steps of one job: in batches by the worker's writer, or one by one where there is none."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.adding import add_from, compiled
from pgqueue.client.canvas.calling import Caller
from pgqueue.client.canvas.canvas import Signature
from pgqueue.client.joining import joining
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, follow, follow_async
from pgqueue.errors import InvalidStep, LeaseLost
from pgqueue.jobs.job import ClaimedJob, NewJob
from pgqueue.jobs.step import NewStep, RecordedStep
from pgqueue.queries import Query
from pgqueue.tasks.added import Addable, AfterAdded
from pgqueue.tasks.journal import AlreadyRecorded, Call, Collect, Compensate, Load, Record, Request, Take
from pgqueue.tasks.sealing import seal_args
from pgqueue.tasks.step_calls import UndoCall
from pgqueue.tasks.storable import MAX_RESULT_BYTES
from pgqueue.tasks.versions import with_own
from pgqueue.worker.duties.step_writer import StepWriter, mark
from pgqueue.worker.running.completion import Completion


class DirectSteps:
    """Asks the database by a connection of the app's, one request at a time: in a child process, and in tests.

    `pooled`: False in a child process, which has a new event loop for each job.
    """

    def __init__(self, app: App, job: ClaimedJob, completion: Completion, *, pooled: bool = True) -> None:
        spec = app.tasks.get(job.task)
        self.version = 1 if spec is None else spec.version
        self.task = job.task
        self.codec = app.codec
        self.in_database = True
        self.max_bytes = MAX_RESULT_BYTES if spec is None else spec.max_result_bytes
        self._app = app
        self._job = job
        self._completion = completion
        self._pooled = pooled

    def ask(self, request: Request) -> Any:
        """Answer a request. Raises LeaseLost."""
        if isinstance(request, Call):
            return self._call(request)
        return self._answer(request, self._app.backend.pools.run(self._query(request)))

    async def aask(self, request: Request) -> Any:
        """The async twin of `ask`."""
        if not self._pooled:
            return await asyncio.to_thread(self.ask, request)
        if isinstance(request, Call):
            return await self._acall(request)
        async with self._app.backend.pools.async_connection() as conn:
            return self._answer(request, await db.run_async(conn, self._query(request)))

    @contextmanager
    def transaction(self) -> Iterator[tuple[db.Connection, Callable[[NewStep], RecordedStep]]]:
        """Lend a connection in a transaction, and the function that records the step in it, as its last statement."""
        queries = self._app.backend.queries
        with self._completion.connection() as conn, conn.transaction():
            block = uuid4().hex
            db.run(conn, queries.jobs.mark_transaction(block))

            def record(step: NewStep) -> RecordedStep:
                db.check_open(conn, db.run(conn, queries.jobs.read_mark()) == block)
                return self._first(step, db.run(conn, queries.steps.record([(self._job, step)]))[0])

            with joining(self._app, conn):
                yield conn, record

    @asynccontextmanager
    async def atransaction(
        self,
    ) -> AsyncIterator[tuple[db.AsyncConnection, Callable[[NewStep], Awaitable[RecordedStep]]]]:
        """The async twin of `transaction`."""
        queries = self._app.backend.queries
        async with self._completion.async_connection() as conn, conn.transaction():
            block = uuid4().hex
            await db.run_async(conn, queries.jobs.mark_transaction(block))

            async def record(step: NewStep) -> RecordedStep:
                db.check_open(conn, await db.run_async(conn, queries.jobs.read_mark()) == block)
                return self._first(step, (await db.run_async(conn, queries.steps.record([(self._job, step)])))[0])

            with joining(self._app, conn):
                yield conn, record

    def undo_text(self, call: UndoCall) -> str:
        """Return the call that undoes a step, as it is stored: what a job of it is inserted with.

        Raises InvalidStep for what is no call, InvalidArguments.
        """
        job = _job_of(call)
        args = job.args if self.codec is None else seal_args(self.codec, job.task, job.args)
        headers = with_own(job.headers, job)
        return json.dumps({
            "task": job.task, "queue": job.queue, "priority": job.priority, "args": json.loads(args),
            "max_attempts": job.max_attempts, "tags": list(job.tags), "headers": json.loads(headers or "{}"),
        })  # fmt: skip

    def adding(
        self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
    ) -> Callable[[db.Connection], Mapping[str, Any]]:
        """Return the function of a step that adds to the workflow of the job. Raises what compiling raises."""
        new = compiled(self._app, part, after, name)
        return lambda conn: follow(conn, add_from(self._app.backend.queries.workflows, self._job, new))

    def aadding(
        self, part: Addable[Any], after: AfterAdded | Iterable[AfterAdded], name: str | None
    ) -> Callable[[db.AsyncConnection], Awaitable[Mapping[str, Any]]]:
        """The async twin of `adding`."""
        new = compiled(self._app, part, after, name)
        return lambda conn: follow_async(conn, add_from(self._app.backend.queries.workflows, self._job, new))

    def function_of(self, task: str) -> Callable[..., Any] | None:
        """Return the function of a task, if this app knows it."""
        spec = self._app.tasks.get(task)
        return None if spec is None else spec.function

    def _call(self, request: Call) -> RecordedStep:
        """Insert the jobs of calls with the record of their step; in a test that runs jobs inline, run them."""
        caller, inline = Caller(self._app, self._job, request), self._app.backend.inline
        try:
            step = StepRunner(self._app, OWN_CONNECTION).perform(caller.steps())
        except AlreadyRecorded as found:
            return found.step
        mark(self._job, request.step)
        if inline is not None:
            inline.run_many(caller.inserted)
        return step

    async def _acall(self, request: Call) -> RecordedStep:
        """The async twin of `_call`."""
        caller, inline = Caller(self._app, self._job, request), self._app.backend.inline
        try:
            step = await StepRunner(self._app, OWN_CONNECTION).aperform(caller.steps())
        except AlreadyRecorded as found:
            return found.step
        mark(self._job, request.step)
        if inline is not None:
            await inline.arun_many(caller.inserted)
        return step

    def _query(self, request: Request) -> Query[Any]:
        queries = self._app.backend.queries
        match request:
            case Load():
                return queries.steps.load([self._job.id])
            case Record(step):
                return queries.steps.record([(self._job, step)])
            case Take(name):
                return queries.signals.take([(self._job, name)])
            case Collect(name):
                return queries.calls.collect([(self._job, name)])
            case Compensate(step):
                return queries.steps.compensate_running(self._job, step)
            case _:
                raise TypeError(f"{request!r} is no question for the database")

    def _answer(self, request: Request, found: Any) -> Any:
        match request:
            case Load():
                return found.get(self._job.id, [])
            case Record(step):
                return self._recorded(step, found[0])
            case Take(_) | Collect(_):
                return self._held(found[0])
            case _:
                return self._held(found)

    def _recorded(self, step: NewStep, found: RecordedStep | None) -> RecordedStep:
        recorded = self._held(found)
        mark(self._job, step)
        return recorded

    def _first(self, step: NewStep, found: RecordedStep | None) -> RecordedStep:
        """Return a record that a transaction has made. One that was there before must undo that transaction."""
        recorded = self._recorded(step, found)
        if not recorded.fresh:
            raise AlreadyRecorded(recorded)
        return recorded

    def _held(self, found: RecordedStep | None) -> RecordedStep:
        if found is None:
            raise LeaseLost(f"job {self._job.id} is no longer this worker's: the step was not recorded")
        return found


class BatchedSteps(DirectSteps):
    """Asks the writer of the worker, which answers the requests of many jobs by one statement."""

    def __init__(self, app: App, job: ClaimedJob, completion: Completion, writer: StepWriter) -> None:
        super().__init__(app, job, completion)
        self._writer = writer

    def ask(self, request: Request) -> Any:
        """Answer a request. Raises LeaseLost."""
        if isinstance(request, Compensate | Call):
            return super().ask(request)
        return self._writer.submit(self._job, request).result()

    async def aask(self, request: Request) -> Any:
        """The async twin of `ask`."""
        if isinstance(request, Compensate | Call):
            return await super().aask(request)
        if asyncio.get_running_loop() is self._writer.loop:
            return await self._writer.ask(self._job, request)
        return await asyncio.wrap_future(self._writer.submit(self._job, request))  # the task has its own loop


def _job_of(call: UndoCall) -> NewJob:
    """Return the job that a call would be."""
    if not isinstance(call, Signature):
        raise InvalidStep(f"undo={call!r:.100} cannot be used: give a call of a task, such as refund.s(order_id)")
    return call.job()
