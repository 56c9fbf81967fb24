"""Where a job goes back to when it has left the test's transaction aborted.

In production its own connection would be rolled back. Here a savepoint stands for that.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from pgqueue import db
from pgqueue.db.drivers import is_django
from pgqueue.errors import ConfigError
from pgqueue.queries.testing import TravellingQueries

KEPT = 100


class Restore:
    """Savepoints around jobs, numbered through the test.

    The first ones are never released: a session of the user's that a task has left open keeps its own savepoint inside.
    Beyond that they are, for each open one makes every statement of the transaction slower.
    """

    def __init__(self, lent: Any) -> None:
        # Looked up here, for another thread has another connection behind the same name.
        self._set_rollback: Callable[[bool], None] | None = lent.set_rollback if is_django(lent) else None
        self._number = 0
        self.active: list[int] = []  # of the jobs that run, one inside the other

    def marks(self) -> bytes:
        """Return what puts the savepoints of the jobs that run where the transaction is now: after a commit in one."""
        return b"".join(b"; savepoint pgqueue_job_%d" % number for number in self.active)

    @asynccontextmanager
    async def around(self, conn: db.AsyncConnection, queries: TravellingQueries) -> AsyncIterator[None]:
        """Let a job run that may abort the transaction."""
        self._number += 1
        number = self._number
        await db.run_async(conn, queries.test.savepoint(number))
        self.active.append(number)
        try:
            yield
        finally:
            self.active.remove(number)
        if conn.info.transaction_status == TransactionStatus.INERROR:
            await self._go_back(conn, queries, number)
        elif number > KEPT:
            await self._forget(conn, queries, number)

    async def _go_back(self, conn: db.AsyncConnection, queries: TravellingQueries, number: int) -> None:
        try:
            await db.run_async(conn, queries.test.roll_back(number))
        except psycopg.errors.InvalidSavepointSpecification:
            raise ConfigError(
                "a task has left the transaction aborted, and has ended the savepoint to go back to: a session that it "
                "uses was open before the job began; commit or close it before jobs are run"
            ) from None
        if self._set_rollback is not None:
            self._set_rollback(False)  # or Django refuses whatever comes next

    async def _forget(self, conn: db.AsyncConnection, queries: TravellingQueries, number: int) -> None:
        try:
            await db.run_async(conn, queries.test.release(number))
        except psycopg.errors.InvalidSavepointSpecification:
            await db.run_async(conn, queries.test.recover())
