"""Running jobs in a test: claimed, executed and resolved as a worker does, one after the other."""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import uuid4

from pgqueue.app import App
from pgqueue.errors import ConfigError
from pgqueue.events import JobClaimed, JobExpired, JobStarted
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import SUCCEEDED, Resolution
from pgqueue.jobs.outcome import Outcome, Raised, Unstarted
from pgqueue.jobs.verdicts import TimedOut
from pgqueue.tasks.context import Signals
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.sealing import seal_progress
from pgqueue.tasks.spec import TaskSpec
from pgqueue.testing.backend import TransactionBackend
from pgqueue.testing.connections import BorrowedLink
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.running.attempts import judged, sealed
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.completion import Completion
from pgqueue.worker.running.executor import Executor
from pgqueue.worker.running.threads import Threads

T = TypeVar("T")
_VERBS = {
    "succeed": "succeeded",
    "retry": "retried",
    "snooze": "snoozed",
    "dead_letter": "failed",
    "withdraw": "cancelled",
    "park": "parked",
}


@dataclass(frozen=True, slots=True)
class Drained:
    """How many attempts ended in which way. `failed` are dead letters; `parked`: their task is not registered."""

    succeeded: int = 0
    retried: int = 0
    snoozed: int = 0
    failed: int = 0
    cancelled: int = 0
    parked: int = 0

    @property
    def total(self) -> int:
        """How many attempts ran."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Which jobs a drain runs, and when it ends; see `Jobs.drain`."""

    queues: Sequence[str] | None = None
    until_empty: bool = True
    limit: int = 1000
    with_scheduled: bool = False
    raise_errors: bool = False


class TaskRaised(AssertionError):
    """A job failed without an exception that could be raised again."""


class RecordingSpec:
    """Stands for the TaskSpec of one attempt, and keeps the exception that the task raised.

    An outcome has only its words; the test wants the exception itself.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self.raised: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spec, name)

    @property
    def isolation(self) -> str:
        """A thread: a child process would not be in the test's transaction."""
        return "thread"

    def arguments(self, job: ClaimedJob) -> dict[str, Any]:
        """Decode the arguments of a job."""
        return self._keeping(lambda: self._spec.arguments(job))

    def call(self, arguments: dict[str, Any], context: Any) -> Any:
        """Call the function."""
        result = self._keeping(lambda: self._spec.call(arguments, context))
        return self._awaited(result) if inspect.isawaitable(result) else result

    async def _awaited(self, result: Any) -> Any:
        try:
            return await result
        except BaseException as error:
            self.raised = error
            raise

    def _keeping(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            self.raised = error
            raise


class OneTask(Tasks):
    """The registry of one attempt: its task, if that is registered."""

    def __init__(self, name: str, spec: RecordingSpec | None) -> None:
        super().__init__()
        if spec is not None:
            self._specs[name] = cast(TaskSpec, spec)


class AttemptSignals(Signals):
    """The signals of one attempt, and the worker as far as the task reaches it."""

    def __init__(self, app: App, job: ClaimedJob) -> None:
        super().__init__(host=self)
        self._app = app
        self._job = job
        self.note: str | None = None

    def completer(self, job: ClaimedJob, signals: Signals) -> Completion:
        """Return what completes the job in `ctx.transaction()`."""
        return Completion(self._app, job, signals)

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Keep the newest progress."""
        self.note = text if self._app.codec is None else seal_progress(self._app.codec, job.task, text)


class Runner:
    """Runs jobs of one test. `error`: the first that a task raised, if `raise_errors`; the runner stops at it."""

    def __init__(self, app: App, backend: TransactionBackend, threads: Threads, *, raise_errors: bool) -> None:
        self._app = app
        self._backend = backend
        self._conn = backend.pools.aconn
        self._link = BorrowedLink(self._conn)
        self._threads = threads
        self._raise_errors = raise_errors
        self._worker = uuid4()
        self._counts: Counter[str] = Counter()
        self.error: BaseException | None = None

    @property
    def drained(self) -> Drained:
        """How the attempts have ended so far."""
        return Drained(**{_VERBS[verb]: count for verb, count in self._counts.items() if verb in _VERBS})

    async def drain(self, options: DrainOptions) -> None:
        """Run the jobs that are due, and those that become due by that."""
        await self._refuse_strangers(options.queues)
        while self.error is None:
            await self._expire()
            jobs = await self._claim(options.queues, 1 if options.until_empty else options.limit)
            if not jobs and options.with_scheduled and await self._travel_to_next(options.queues):
                continue
            if jobs and self.drained.total >= options.limit:
                await self._release(jobs)
                one = f"#{jobs[0].id} {jobs[0].task}"
                raise AssertionError(f"{options.limit} attempts have run, and jobs are still due, such as {one}")
            await self.run(jobs)
            if not jobs or not options.until_empty:
                break
        await self._app.listeners.finished()

    async def run_one(self, job_id: int) -> bool:
        """Run one job, due or not; False if it is not pending."""
        jobs = await self._link.run(self._backend.queries.test.claim_one(self._worker, job_id))
        await self.run(jobs)
        await self._app.listeners.finished()
        return bool(jobs)

    async def run(self, jobs: Sequence[ClaimedJob]) -> None:
        """Run claimed jobs, one after the other. After an error that ends it all, release the others."""
        for position, job in enumerate(jobs):
            self._app.listeners.emit(JobClaimed(*job.about))
            await self._attempt(job)
            if self.error is not None:
                await self._release(jobs[position + 1 :])
                return

    async def _attempt(self, job: ClaimedJob) -> None:
        spec = self._app.tasks.get(job.task)
        recording = None if spec is None else RecordingSpec(spec)
        tasks, signals = OneTask(job.task, recording), AttemptSignals(self._app, job)
        executor = Executor(tasks, 1, Children(tasks), self._app.middlewares, self._threads)
        async with self._backend.savepoints.around(self._conn, self._backend.queries):
            self._app.listeners.emit(JobStarted(*job.about))
            outcome = await executor.run(job, signals)
        signals.host = None
        resolution = SUCCEEDED if signals.completed else judged(self._app, job, outcome)
        self._counts["withdraw" if await self._unwanted(job, resolution) else resolution.verb] += 1
        if not signals.completed:
            await self._write(job, resolution, signals.note)
        await self._link.run(self._backend.queries.test.stamp(job))
        self._judge(outcome, recording.raised if recording else None)

    async def _unwanted(self, job: ClaimedJob, resolution: Resolution) -> bool:
        """Whether the job would be tried again, but was cancelled while it ran, and so ends as cancelled."""
        if resolution.target.is_terminal:
            return False
        return job.id in await self._link.run(self._backend.queries.jobs.cancellations(self._worker, [job.id]))

    async def _write(self, job: ClaimedJob, resolution: Resolution, note: str | None) -> None:
        """Write the outcome with the worker's resolver, which calls listeners and handles rows that are refused."""
        queries = self._backend.queries
        if note is not None:
            await self._link.run(queries.jobs.note_progress([(job, note)]))
        resolver = Resolver(self._link, queries, lambda *_: None, lambda: None, self._app.listeners, self._app.tasks)
        resolver.add(job, sealed(self._app, job, resolution))
        await resolver.step()

    def _judge(self, outcome: Outcome, raised: BaseException | None) -> None:
        """Keep an error that ends the run: the first of a task if `raise_errors`, or one that is meant for the test,
        such as a failed assertion of pytest."""
        if raised is not None and not isinstance(raised, (Exception, SystemExit, asyncio.CancelledError)):
            self.error = raised
        elif self._raise_errors and isinstance(outcome, Raised):
            if outcome.reason == "timeout" and not isinstance(raised, TimedOut):  # it saw a cancellation
                raised = TimedOut(outcome.error.message)
            self.error = raised or TaskRaised(f"{outcome.error.type}: {outcome.error.message}")

    async def _claim(self, queues: Sequence[str] | None, at_most: int) -> list[ClaimedJob]:
        queries, tasks = self._backend.queries, self._app.tasks
        rooms = dict.fromkeys(await self._served(queues), at_most)
        jobs: list[ClaimedJob] = await self._link.run(queries.jobs.claim(self._worker, rooms, at_most))
        if jobs:
            return jobs
        return await self._link.run(queries.jobs.adopt(self._worker, rooms, tasks.names(), at_most, tasks.versions()))

    async def _expire(self) -> None:
        """Cancel what was not started in time, as a worker's sweeper does."""
        for job in await self._link.run(self._backend.queries.jobs.expire(1000)):
            self._app.listeners.emit(JobExpired(job.id, job.task, job.queue))

    async def _served(self, queues: Sequence[str] | None) -> Sequence[str]:
        if queues is not None:
            return queues
        return await self._link.run(self._backend.queries.test.list_queues())

    async def _travel_to_next(self, queues: Sequence[str] | None) -> bool:
        seconds = await self._link.run(self._backend.queries.jobs.next_due(await self._served(queues)))
        if seconds is not None:
            self._backend.declare_schedules()  # before the clock moves: their ticks count from now
            self._backend.travel(timedelta(seconds=max(seconds, 0.0) + 0.001))
        return seconds is not None

    async def _release(self, jobs: Sequence[ClaimedJob]) -> None:
        for job in jobs:
            await self._write(job, judged(self._app, job, Unstarted()), None)

    async def _refuse_strangers(self, queues: Sequence[str] | None) -> None:
        served = await self._served(queues)
        found = await self._link.run(self._backend.queries.test.count_strangers(self._backend.newest_stranger, served))
        if found:
            raise ConfigError(
                f"{found} jobs wait in database {self._conn.info.dbname!r} that this test has not enqueued, and would "
                "be run: give tests a database of their own"
            )
