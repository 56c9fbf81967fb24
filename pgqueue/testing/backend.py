"""The backend of an app while a test lasts: one connection, and a clock that the test sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from psycopg.conninfo import make_conninfo

from pgqueue.app import App
from pgqueue.client.backend import Backend
from pgqueue.errors import ResultMissing
from pgqueue.jobs.job import Job
from pgqueue.queries import Query
from pgqueue.queries.testing import TravellingQueries
from pgqueue.queries.waits import UnreadableJob
from pgqueue.testing.connections import BorrowedPools, pgconn_of
from pgqueue.testing.locks import UnrenewedLocks
from pgqueue.testing.savepoints import JobSavepoints
from pgqueue.testing.waits import ImmediateWaits

T = TypeVar("T")


class TransactionBackend(Backend):
    """All that the app does on connections of its own happens in the test's transaction, at the time the test says.

    Strangers are jobs that were there before this transaction: `newest_foreign` is the highest id of one.
    """

    queries: TravellingQueries
    pools: BorrowedPools
    declares_at_once = True

    def __init__(self, app: App, conn: object) -> None:
        self._app = app
        self.savepoints = JobSavepoints(conn)
        pools = BorrowedPools(pgconn_of(conn), self.savepoints)
        super().__init__(
            make_conninfo("", **pools.conn.info.get_parameters()),
            TravellingQueries(app.schema, codec=app.codec),
            pgbouncer=app.backend.pgbouncer,
            listen_dsn=app.backend.listen_dsn,
        )
        self.pools = pools
        self.waits = ImmediateWaits(self._look)
        self.lock_renewer = UnrenewedLocks(self)
        self.newest_foreign = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put it in the place of the app's own backend."""
        self.pools.begin()
        self.newest_foreign = self.run(self.queries.test.newest_foreign())
        replaced, self._app.backend = self._app.backend, self
        try:
            yield
        finally:
            self._app.backend = replaced

    def run(self, query: Query[T]) -> T:
        """Run one query in the test's transaction."""
        return self.pools.run(query)

    def now(self) -> datetime:
        """The time by the test's clock."""
        return self.run(self.queries.schedules.clock())

    def declare_schedules(self) -> None:
        """Write the app's schedules. Their ticks count from the first time that this happens in a test."""
        now, schedules = self.now(), self._app.schedules.values()
        if schedules:
            self.run(self.queries.schedules.declare([(s, s.plan.after(now)) for s in schedules]))

    def travel(self, step: timedelta) -> None:
        """Set the test's clock on, or back, by a step."""
        self.queries = TravellingQueries(self._app.schema, self.queries.offset + step, self._app.codec)

    def _look(self, job_id: int) -> Job | None:
        jobs = self.run(self.queries.waits.read_jobs([job_id]))
        found = jobs[0] if jobs else None
        if isinstance(found, UnreadableJob):
            raise ResultMissing(f"job {job_id} cannot be read here: {found.reason}")
        return found
