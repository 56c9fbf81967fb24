"""Savepoints around the jobs of a test.

In production a job that fails rolls back its own connection. In a test all jobs share one transaction, and a job that
leaves it aborted is undone by going back to the savepoint at which the job began.
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


class JobSavepoints:
    """The savepoints of a test's jobs, numbered through the test.

    The first KEPT are never released: a user's session that a task has left open has its own savepoint inside. Later
    ones are released, because each open savepoint makes every statement of the transaction slower.
    """

    def __init__(self, conn: Any) -> None:
        # Django keeps a connection for each thread behind one name, so the method is looked up in this thread.
        self._set_rollback: Callable[[bool], None] | None = conn.set_rollback if is_django(conn) else None
        self._number = 0
        self._active: list[int] = []  # of the jobs that run now; one job may run inside another

    def renewed(self) -> bytes:
        """Return SQL that sets the savepoints of the running jobs again, after a commit inside a job ended them."""
        return b"".join(b"; savepoint pgqueue_job_%d" % number for number in self._active)

    @asynccontextmanager
    async def around(self, conn: db.AsyncConnection, queries: TravellingQueries) -> AsyncIterator[None]:
        """Run a job in a savepoint; go back to it if the job has left the transaction aborted."""
        self._number += 1
        number = self._number
        await db.run_async(conn, queries.test.savepoint(number))
        self._active.append(number)
        try:
            yield
        finally:
            self._active.remove(number)
        if conn.info.transaction_status == TransactionStatus.INERROR:
            await self._go_back(conn, queries, number)
        elif number > KEPT:
            await self._release(conn, queries, number)

    async def _go_back(self, conn: db.AsyncConnection, queries: TravellingQueries, number: int) -> None:
        try:
            await db.run_async(conn, queries.test.roll_back(number))
        except psycopg.errors.InvalidSavepointSpecification:
            raise ConfigError(
                "a task has left the transaction aborted, and has ended the savepoint to go back to: a session that it "
                "uses was open before the job began; commit or close it before jobs are run"
            ) from None
        if self._set_rollback is not None:
            self._set_rollback(False)  # else Django refuses every further statement

    async def _release(self, conn: db.AsyncConnection, queries: TravellingQueries, number: int) -> None:
        try:
            await db.run_async(conn, queries.test.release(number))
        except psycopg.errors.InvalidSavepointSpecification:
            await db.run_async(conn, queries.test.recover())
