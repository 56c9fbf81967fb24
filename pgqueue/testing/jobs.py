"""The jobs of one test: what it has enqueued, how to run them, and the clock by which they are due."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Unpack

from pgqueue.app import App
from pgqueue.client.task import Task
from pgqueue.errors import ConfigError, InvalidOption
from pgqueue.jobs.job import Job, JobState
from pgqueue.scheduler import SchedulerSettings, Ticker
from pgqueue.testing.asserting import ExpectedJob, ExpectedOptions, listing, name_of, one_line
from pgqueue.testing.backend import TransactionBackend
from pgqueue.testing.connections import AsyncSavepointConnection, BorrowedLink, SavepointConnection
from pgqueue.testing.running import Drained, DrainOptions, Runner
from pgqueue.testing.threads import InSideThread, from_sync, loop_runs
from pgqueue.timing import seconds as as_seconds
from pgqueue.worker.running.threads import Threads


class Jobs:
    """The jobs of one test, in a transaction that is rolled back when it ends.

    While it is open, what the app does on connections of its own happens in this transaction too.
    """

    def __init__(self, app: App, conn: object) -> None:
        self.app = app
        self.backend = TransactionBackend(app, conn)

    @property
    def conn(self) -> SavepointConnection:
        """The test's connection as a psycopg one. Its commit() and rollback() move a savepoint."""
        return self.backend.pools.conn

    @property
    def aconn(self) -> AsyncSavepointConnection:
        """The same connection as an async one of the running event loop. Never use both at the same moment."""
        return self.backend.pools.aconn

    # --- what was enqueued

    def all(self) -> list[Job]:
        """The jobs that this test has enqueued, oldest first, whatever has become of them."""
        return self.backend.run(self.backend.queries.test.list_after(self.backend.newest_foreign))

    def enqueued(
        self,
        task: "Task[..., Any] | str | None" = None,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[ExpectedOptions],
    ) -> list[Job]:
        """The jobs that wait, oldest first; with a task, arguments or options, those that are like that.

        The options are those of `assert_enqueued`.
        """
        return self._like(ExpectedJob(name_of(task), args, **options))[0]

    def assert_enqueued(
        self,
        task: "Task[..., Any] | str | None" = None,
        args: Mapping[str, Any] | None = None,
        *,
        count: int | None = None,
        **options: Unpack[ExpectedOptions],
    ) -> Job:
        """Return the first job that waits and is like this. If there is none, fail and say what was enqueued instead.

        `args`: the values of some arguments; others may have any. Options: `queue`, `priority`, `run_at`, `delay` (from
        when it was enqueued), `max_attempts`, `tags`. `run_at` and `delay` may be off by `within` seconds. `count`: so
        many, no more and no less. `state` may be "any", or a state or phase such as "succeeded" or "scheduled".
        """
        __tracebackhide__ = True
        expected = ExpectedJob(name_of(task), args, **options)
        found, everything = self._like(expected)
        if not found or count not in (None, len(found)):
            self._fail(f"{len(found)} jobs, not {count}, are" if count and found else "no job is", expected, everything)
        return found[0]

    def assert_not_enqueued(
        self,
        task: "Task[..., Any] | str | None" = None,
        args: Mapping[str, Any] | None = None,
        **options: Unpack[ExpectedOptions],
    ) -> None:
        """Fail if a job waits that is like this. The options are those of `assert_enqueued` but for `count`."""
        __tracebackhide__ = True
        expected = ExpectedJob(name_of(task), args, **options)
        found, _ = self._like(expected)
        if found:
            there = "\n".join(f"  {one_line(job)}" for job in found)
            raise AssertionError(f"nothing like this should be enqueued:\n  {expected}\nbut it is:\n{there}")

    def _like(self, expected: ExpectedJob) -> tuple[list[Job], list[Job]]:
        everything = self.all()
        specs = self.app.tasks
        candidates = [job for job in everything if expected.is_candidate(job)]
        return [job for job in candidates if not expected.differences(job, specs.get(job.task))], everything

    def _fail(self, what: str, expected: ExpectedJob, everything: list[Job]) -> None:
        __tracebackhide__ = True
        there = listing(everything, expected, {job.task: self.app.tasks.get(job.task) for job in everything})
        raise AssertionError(f"{what} {expected.state} like this:\n  {expected}\nenqueued were:\n{there}")

    # --- running

    def drain(
        self,
        *,
        queues: Sequence[str] | None = None,
        until_empty: bool = True,
        limit: int = 1000,
        with_scheduled: bool = False,
        raise_errors: bool = False,
    ) -> Drained:
        """Run the jobs that are due, and those that become due by that, one after the other; return the counts.

        `until_empty=False`: only those that are due now. `with_scheduled`: travel to each job that is due later, too.
        `raise_errors`: raise the first error of a task, once it is recorded. More than `limit` attempts are an
        AssertionError. Sync tasks run in this thread, async ones in an event loop beside it.
        """
        self._not_in_a_loop("drain")
        options = DrainOptions(queues, until_empty, limit, with_scheduled, raise_errors)
        return _ended(from_sync(lambda threads: self._drain(threads, options))).drained

    async def adrain(
        self,
        *,
        queues: Sequence[str] | None = None,
        until_empty: bool = True,
        limit: int = 1000,
        with_scheduled: bool = False,
        raise_errors: bool = False,
    ) -> Drained:
        """The twin of `drain` for async tests: async tasks run on this event loop, sync ones in a thread."""
        options = DrainOptions(queues, until_empty, limit, with_scheduled, raise_errors)
        return _ended(await self._drain(InSideThread(), options)).drained

    async def _drain(self, threads: Threads, options: DrainOptions) -> Runner:
        runner = Runner(self.app, self.backend, threads, raise_errors=options.raise_errors)
        await runner.drain(options)
        return runner

    def run(self, job: Job | int, *, raise_errors: bool = True) -> Job:
        """Run one waiting job now, whenever it is due; return it as it is then. A task's error is raised."""
        job_id = job if isinstance(job, int) else job.id
        _ended(from_sync(lambda threads: self._run_one(threads, job_id, raise_errors)))
        return self.app.get(job_id)

    async def arun(self, job: Job | int, *, raise_errors: bool = True) -> Job:
        """The async twin of `run`."""
        job_id = job if isinstance(job, int) else job.id
        _ended(await self._run_one(InSideThread(), job_id, raise_errors))
        return await self.app.aget(job_id)

    async def _run_one(self, threads: Threads, job_id: int, raise_errors: bool) -> Runner:
        runner = Runner(self.app, self.backend, threads, raise_errors=raise_errors)
        await runner.run_one(job_id)
        return runner

    @contextmanager
    def inline(self, *, raise_errors: bool = True) -> Iterator[None]:
        """Within the block, `enqueue` runs the job at once, whenever it is due, and returns it as it is afterwards.

        The job is inserted, claimed and resolved as ever; its arguments go through JSON and back. A task's error is
        recorded and then raised where the job was enqueued, unless `raise_errors=False`.
        """
        outer, self.backend.inline = self.backend.inline, _InlineRuns(self, raise_errors)
        try:
            yield
        finally:
            self.backend.inline = outer

    # --- time

    def now(self) -> datetime:
        """The time by the test's clock: the database's, and as far as the test has travelled."""
        return self.backend.now()

    def travel(self, by: float | timedelta = 0, /, **parts: float) -> datetime:
        """Set the test's clock on by seconds, a timedelta, or parts of one: `travel(hours=1)`. Returns the new time.

        Everything pgqueue decides by time goes by it: `run_at`, retries, schedules, the times of rows. It goes on from
        there. Your own SQL and Python's clock stay where they are.
        """
        self.backend.declare_schedules()  # before the clock moves: their ticks count from now
        self.backend.travel(timedelta(seconds=as_seconds(by)) + timedelta(**parts))
        return self.now()

    def travel_to(self, moment: datetime) -> datetime:
        """Set the test's clock to a moment, an aware datetime, earlier or later. A test that begins with it takes place
        then: its schedules count from there."""
        if moment.utcoffset() is None:
            raise InvalidOption(f"{moment!r} has no timezone: give an aware datetime")
        self.backend.travel(moment - self.now())
        return self.now()

    def fire_schedules(self) -> list[Job]:
        """Fire the app's schedules whose tick has come, as `pgqueue schedule` does; return the new jobs.

        Ticks count from the first `travel` or `fire_schedules` of the test.
        """
        self._not_in_a_loop("fire_schedules")
        return from_sync(lambda _: self.afire_schedules())

    async def afire_schedules(self) -> list[Job]:
        """The async twin of `fire_schedules`."""
        self.backend.declare_schedules()
        before = {job.id for job in self.all()}
        ticker = Ticker(self.app, BorrowedLink(self.aconn), SchedulerSettings())
        names = {row.name for row in self.backend.run(self.backend.queries.schedules.list())}
        ticker.leave_alone(names - set(self.app.schedules), math.inf)
        while await ticker.fire():
            pass
        return [job for job in self.all() if job.id not in before]

    def _not_in_a_loop(self, verb: str) -> None:
        if loop_runs():
            raise ConfigError(f"{verb}() in an event loop would block it: await a{verb}()")


class _InlineRuns:
    """Runs each job of a test as soon as it is inserted: the `inline` of the app's backend."""

    def __init__(self, jobs: Jobs, raise_errors: bool) -> None:
        self._jobs = jobs
        self._raise_errors = raise_errors

    def run(self, job: Job) -> Job:
        if job.existing:
            return job
        ran = self._jobs.run(job, raise_errors=self._raise_errors)
        if not self._is_in_workflow(ran):
            return ran
        self._jobs.drain(with_scheduled=True, raise_errors=self._raise_errors)
        return self._jobs.app.get(ran.id)

    async def arun(self, job: Job) -> Job:
        if job.existing:
            return job
        ran = await self._jobs.arun(job, raise_errors=self._raise_errors)
        if not self._is_in_workflow(ran):
            return ran
        await self._jobs.adrain(with_scheduled=True, raise_errors=self._raise_errors)
        return await self._jobs.app.aget(ran.id)

    def run_many(self, ids: list[int]) -> list[int]:
        for job in self._waiting(ids):
            self.run(job)
        return ids

    async def arun_many(self, ids: list[int]) -> list[int]:
        for job in self._waiting(ids):
            await self.arun(job)
        return ids

    def _is_in_workflow(self, job: Job) -> bool:
        """Whether a job has got a workflow while it ran: others run in its place, or it has added some."""
        backend = self._jobs.backend
        return job.state != JobState.PENDING and backend.run(backend.queries.test.in_workflow(job.id))

    def _waiting(self, ids: Sequence[int]) -> list[Job]:
        """Those that wait, each once: with a key the id may be that of a job that was there before."""
        waiting = {job.id: job for job in self._jobs.all() if job.state in (JobState.PENDING, JobState.BLOCKED)}
        return [waiting[job_id] for job_id in dict.fromkeys(ids) if job_id in waiting]


def _ended(runner: Runner) -> Runner:
    if runner.error is not None:
        raise runner.error
    return runner
