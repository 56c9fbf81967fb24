"""The jobs of one test: what it has enqueued, running them, and the clock they go by."""

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch

from psycopg.conninfo import make_conninfo

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.session import Session
from pgqueue.client.task import Task
from pgqueue.errors import ConfigError, InvalidOption
from pgqueue.jobs.job import Job, JobState, NewJob
from pgqueue.queries import Query
from pgqueue.queries.testing import TravellingQueries
from pgqueue.scheduler import SchedulerSettings, Ticker
from pgqueue.testing.asserting import Wanted, describe, listing, name_of
from pgqueue.testing.calls import Aside, from_sync, loop_runs
from pgqueue.testing.connections import AsyncUncommitted, LentLink, LentPools, Uncommitted, pgconn_of
from pgqueue.testing.restore import Restore
from pgqueue.testing.running import Drained, Extent, Runner
from pgqueue.testing.waits import LentWaits
from pgqueue.timing import seconds as as_seconds
from pgqueue.worker.running.threads import Threads

T = TypeVar("T")


class Jobs:
    """The jobs of one test, in a transaction that is rolled back when it ends.

    While it is open, what the app does on connections of its own happens in this transaction too.
    """

    def __init__(self, app: App, lent: object) -> None:
        self.app = app
        self.restore = Restore(lent)
        self._pools = LentPools(pgconn_of(lent), self.restore)
        self._queries = TravellingQueries(app.schema, codec=app.codec)
        self.newest_stranger = 0

    @property
    def conn(self) -> Uncommitted:
        """The test's connection as a psycopg one. Its commit() and rollback() move a savepoint."""
        return self._pools.conn

    @property
    def aconn(self) -> AsyncUncommitted:
        """The same connection as an async one of the running event loop. Never use both at the same moment."""
        return self._pools.aconn

    @property
    def queries(self) -> TravellingQueries:
        """The statements, by the test's clock."""
        return self._queries

    @contextmanager
    def opened(self) -> Iterator["Jobs"]:
        """Let the app's own connections be the test's."""
        self._pools.begin()
        self.newest_stranger = self._run(self._queries.test.newest_stranger())
        app, info = self.app, self.conn.info
        kept = app.queries, app.pools, app.waits, app._given_dsn
        app.queries, app.pools, app.waits = self._queries, self._pools, LentWaits(self._look)
        app._given_dsn = make_conninfo("", **info.get_parameters())
        try:
            yield self
        finally:
            app.queries, app.pools, app.waits, app._given_dsn = kept

    # --- what was enqueued

    def all(self) -> list[Job]:
        """The jobs that this test has enqueued, oldest first, whatever has become of them."""
        return self._run(self._queries.test.list_after(self.newest_stranger))

    def enqueued(
        self, task: "Task[..., Any] | str | None" = None, args: Mapping[str, Any] | None = None, **options: Any
    ) -> list[Job]:
        """The jobs that wait, oldest first; with a task, arguments or options, those that are like that.

        The options are those of `assert_enqueued`.
        """
        return self._like(Wanted(name_of(task), args, **options))[0]

    def assert_enqueued(
        self,
        task: "Task[..., Any] | str | None" = None,
        args: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        max_attempts: int | None = None,
        tags: Sequence[str] | None = None,
        state: str = "waiting",
        count: int | None = None,
        within: float | timedelta = 1.0,
    ) -> Job:
        """Return the first job that waits and is like this; fail, saying what was enqueued instead, if there is none.

        `args`: the values of some arguments; others may have any. `run_at` and `delay` (from when it was enqueued) may
        be off by `within` seconds. `count`: so many, no more and no less. `state` may be "any", or a state or phase
        such as "succeeded" or "scheduled".
        """
        __tracebackhide__ = True
        wanted = Wanted(name_of(task), args, queue, priority, run_at, delay, max_attempts, tags, state, within)
        found, everything = self._like(wanted)
        if not found or count not in (None, len(found)):
            self._fail(f"{len(found)} jobs, not {count}, are" if count and found else "no job is", wanted, everything)
        return found[0]

    def assert_not_enqueued(
        self, task: "Task[..., Any] | str | None" = None, args: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """Fail if a job waits that is like this. The options are those of `assert_enqueued` but for `count`."""
        __tracebackhide__ = True
        wanted = Wanted(name_of(task), args, **options)
        found, _ = self._like(wanted)
        if found:
            there = "\n".join(f"  {describe(job)}" for job in found)
            raise AssertionError(f"nothing like this should be enqueued:\n  {wanted}\nbut it is:\n{there}")

    def _like(self, wanted: Wanted) -> tuple[list[Job], list[Job]]:
        everything = self.all()
        specs = self.app.tasks
        found = [j for j in everything if wanted.is_candidate(j) and not wanted.lacks(j, specs.get(j.task))]
        return found, everything

    def _fail(self, what: str, wanted: Wanted, everything: list[Job]) -> None:
        __tracebackhide__ = True
        there = listing(everything, wanted, {job.task: self.app.tasks.get(job.task) for job in everything})
        raise AssertionError(f"{what} {wanted.state} like this:\n  {wanted}\nenqueued were:\n{there}")

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
        extent = Extent(queues, until_empty, limit, with_scheduled, raise_errors)
        return _ended(from_sync(lambda threads: self._drain(threads, extent))).drained

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
        extent = Extent(queues, until_empty, limit, with_scheduled, raise_errors)
        return _ended(await self._drain(Aside(), extent)).drained

    async def _drain(self, threads: Threads, extent: Extent) -> Runner:
        runner = Runner(self, self.aconn, threads, raise_errors=extent.raise_errors)
        await runner.drain(extent)
        return runner

    def run(self, job: Job | int, *, raise_errors: bool = True) -> Job:
        """Run one waiting job now, whenever it is due; return it as it is then. A task's error is raised."""
        job_id = job if isinstance(job, int) else job.id
        _ended(from_sync(lambda threads: self._run_one(threads, job_id, raise_errors)))
        return self.app.get(job_id)

    async def arun(self, job: Job | int, *, raise_errors: bool = True) -> Job:
        """The async twin of `run`."""
        job_id = job if isinstance(job, int) else job.id
        _ended(await self._run_one(Aside(), job_id, raise_errors))
        return await self.app.aget(job_id)

    async def _run_one(self, threads: Threads, job_id: int, raise_errors: bool) -> Runner:
        runner = Runner(self, self.aconn, threads, raise_errors=raise_errors)
        await runner.run_one(job_id)
        return runner

    @contextmanager
    def inline(self, *, raise_errors: bool = True) -> Iterator[None]:
        """Within the block, `enqueue` runs the job at once, whenever it is due, and returns it as it is afterwards.

        The job is inserted, claimed and resolved as ever; its arguments go through JSON and back. A task's error is
        recorded and then raised where the job was enqueued, unless `raise_errors=False`.
        """
        names = ("insert", "insert_many", "insert_all", "ainsert", "ainsert_many", "ainsert_all")
        plain = {name: getattr(Session, name) for name in names}

        def insert(session: Session, new: NewJob) -> Job:
            job: Job = plain["insert"](session, new)
            runs = session._home is self.app and not job.existing
            return self.run(job, raise_errors=raise_errors) if runs else job

        async def ainsert(session: Session, new: NewJob) -> Job:
            job: Job = await plain["ainsert"](session, new)
            runs = session._home is self.app and not job.existing
            return await self.arun(job, raise_errors=raise_errors) if runs else job

        def many(name: str) -> Callable[..., list[int]]:
            def insert_many(session: Session, *new: Any) -> list[int]:
                ids: list[int] = plain[name](session, *new)
                for job_id in self._waiting(ids) if session._home is self.app else ():
                    self.run(job_id, raise_errors=raise_errors)
                return ids

            return insert_many

        def amany(name: str) -> Callable[..., Awaitable[list[int]]]:
            async def ainsert_many(session: Session, *new: Any) -> list[int]:
                ids: list[int] = await plain[name](session, *new)
                for job_id in self._waiting(ids) if session._home is self.app else ():
                    await self.arun(job_id, raise_errors=raise_errors)
                return ids

            return ainsert_many

        with patch.multiple(
            Session,
            insert=insert,
            insert_many=many("insert_many"),
            insert_all=many("insert_all"),
            ainsert=ainsert,
            ainsert_many=amany("ainsert_many"),
            ainsert_all=amany("ainsert_all"),
        ):
            yield

    def _waiting(self, ids: Sequence[int]) -> list[int]:
        """Those that wait, each once: a call with keys may have met jobs that were there already."""
        waiting = {job.id for job in self.all() if job.state in (JobState.PENDING, JobState.BLOCKED)}
        return [job_id for job_id in dict.fromkeys(ids) if job_id in waiting]

    # --- time

    def now(self) -> datetime:
        """The time by the test's clock: the database's, and as far as the test has travelled."""
        return self._run(self._queries.schedules.clock())

    def travel(self, by: float | timedelta = 0, /, **parts: float) -> datetime:
        """Set the test's clock on by seconds, a timedelta, or parts of one: `travel(hours=1)`. Returns the new time.

        Everything pgqueue decides by time goes by it: `run_at`, retries, schedules, the times of rows. It goes on from
        there. Your own SQL and Python's clock stay where they are.
        """
        self._declare()  # what is scheduled counts from before the journey
        return self._move(timedelta(seconds=as_seconds(by)) + timedelta(**parts))

    def travel_to(self, moment: datetime) -> datetime:
        """Set the test's clock to a moment, an aware datetime, earlier or later. A test that begins with it takes place
        then: its schedules count from there."""
        if moment.utcoffset() is None:
            raise InvalidOption(f"{moment!r} has no timezone: give an aware datetime")
        return self._move(moment - self.now())

    def _move(self, step: timedelta) -> datetime:
        self._queries = TravellingQueries(self.app.schema, self._queries.offset + step, self.app.codec)
        if self.app.pools is self._pools:
            self.app.queries = self._queries
        return self.now()

    def fire_schedules(self) -> list[Job]:
        """Fire the app's schedules whose tick has come, as `pgqueue schedule` does; return the new jobs.

        Ticks count from the first `travel` or `fire_schedules` of the test.
        """
        self._not_in_a_loop("fire_schedules")
        return from_sync(lambda _: self.afire_schedules())

    async def afire_schedules(self) -> list[Job]:
        """The async twin of `fire_schedules`."""
        self._declare()
        before = {job.id for job in self.all()}
        ticker = Ticker(self.app, LentLink(self.aconn), SchedulerSettings())
        others = {row.name for row in self._run(self._queries.schedules.list_schedules())} - set(self.app.schedules)
        ticker._unusable |= dict.fromkeys(others, math.inf)
        while await ticker.fire():
            pass
        return [job for job in self.all() if job.id not in before]

    def _declare(self) -> None:
        now = self.now()
        if self.app.schedules:
            self._run(self._queries.schedules.declare([(s, s.plan.after(now)) for s in self.app.schedules.values()]))

    def _look(self, job_id: int) -> Job | None:
        jobs = self._run(self._queries.waits.read_jobs([job_id]))
        return jobs[0] if jobs else None

    def _run(self, query: Query[T]) -> T:
        return db.run(self.conn, query)

    def _not_in_a_loop(self, verb: str) -> None:
        if loop_runs():
            raise ConfigError(f"{verb}() in an event loop would block it: await a{verb}()")


def _ended(runner: Runner) -> Runner:
    if runner.error is not None:
        raise runner.error
    return runner
