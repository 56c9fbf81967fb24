"""Connections that come back: for a process that outlives its database's restarts, and never waits for ever."""

import asyncio
import os
import random
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import psycopg

from pgqueue import db
from pgqueue.errors import PgqueueError
from pgqueue.queries import Query

T = TypeVar("T")
DATABASE_ERRORS = (psycopg.Error, PgqueueError, OSError)
DEADLINE = 10.0
# After these a connection's state is unknown, or it leads to a server that has become a standby: a new one may not.
BROKEN = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction, OSError)


def monotonic() -> float:
    """Seconds on a clock that never steps back, for waits inside one process. Never compared with the database's."""
    return time.monotonic()


def blames_data(error: Exception) -> bool:
    """Whether a statement failed for what it carries, so that the rest of its batch may pass without one row.

    Else it is worth trying again as it is.
    """
    if isinstance(error, (psycopg.errors.ProgramLimitExceeded, psycopg.errors.OutOfMemory)):
        return True
    return not isinstance(error, (*BROKEN, PgqueueError))


def brief(error: Exception) -> str:
    """Return an error's message for the log, without the details in which Postgres quotes rows."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return (message or str(error).strip() or "no message").splitlines()[0]


class Backoff:
    """Delays that grow while something fails: 0.1 s doubling to 5 s, each spread by half."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Return the delay after one more failure, in seconds."""
        self.failures += 1
        return min(0.1 * 2.0 ** min(self.failures - 1, 10), 5.0) * random.uniform(0.5, 1.5)  # noqa: S311

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0


def sever(conn: psycopg.Connection[object] | psycopg.AsyncConnection[object]) -> None:
    """Cut a connection under whoever waits on it: the wait fails at once.

    Not a cancellation: psycopg answers one by asking the server to stop, and waits until it does. A server that does
    not answer, behind a network that swallows everything, would be waited for without end.
    """
    with suppress(psycopg.Error, OSError, ValueError), socket.socket(fileno=os.dup(conn.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


class Link:
    """One connection of a process, for one duty at a time; opened when first used, and again after it was lost."""

    def __init__(self, database: db.Database, name: str) -> None:
        self._database = database
        self._name = name
        self._conn: db.AsyncConnection | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self, deadline: float | None = DEADLINE) -> AsyncIterator[db.AsyncConnection]:
        """Lend the connection for at most `deadline` seconds. A failure in between drops it: its state is unknown."""
        async with self._lock:
            if self._conn is None or self._conn.closed:
                self._conn = await self._database.connect_duty(self._name)
            timer = None if deadline is None else asyncio.get_running_loop().call_later(deadline, sever, self._conn)
            try:
                yield self._conn
            except (*BROKEN, asyncio.CancelledError):
                await self._drop()
                raise
            finally:
                if timer is not None:
                    timer.cancel()

    async def run(self, query: Query[T], deadline: float = DEADLINE) -> T:
        """Run one query in a transaction of its own, within `deadline` seconds."""
        async with self.connection(deadline) as conn:
            return await db.run_async(conn, query)

    def sever(self) -> None:
        """Cut the connection under whoever uses it."""
        if self._conn is not None:
            sever(self._conn)

    async def close(self) -> None:
        """Close the connection, whoever uses it."""
        self.sever()
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error, OSError):
                await conn.close()
