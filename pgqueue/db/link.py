"""Links: connections of a process that are made anew after a failure, and whose every use has a deadline."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import psycopg

from pgqueue.db.connection import AsyncConnection, run_async
from pgqueue.db.database import Database
from pgqueue.db.failures import BROKEN, TIMED_OUT
from pgqueue.queries import Query
from pgqueue.queries.base import statement_timeout

T = TypeVar("T")

DEADLINE = 10.0  # seconds
SPARE = 0.5  # of a deadline: the server gives up so much earlier, and says so


def sever(conn: psycopg.Connection[object] | psycopg.AsyncConnection[object]) -> None:
    """Shut a connection's socket down, so that a statement that waits for the server fails at once.

    Cancelling the asyncio task would not do: psycopg then asks the server to stop the statement and waits until it has.
    Behind a network that drops every packet that wait would never end.
    """
    with suppress(psycopg.Error, OSError, ValueError), socket.socket(fileno=os.dup(conn.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


class Link:
    """One connection of a process, for one duty at a time. It is opened when first used, and again after a failure.

    `answers` counts its uses that ended well.
    """

    answers = 0

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        self._conn: AsyncConnection | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self, deadline: float | None = DEADLINE) -> AsyncIterator[AsyncConnection]:
        """Give the connection for at most `deadline` seconds. A failure meanwhile drops it: its state is unknown."""
        async with self._lock:
            if self._conn is None or self._conn.closed:
                self._conn = await self._database.connect_duty(self._name, DEADLINE - SPARE)
            timer = None if deadline is None else asyncio.get_running_loop().call_later(deadline, sever, self._conn)
            try:
                yield self._conn
                self.answers += 1
            except TIMED_OUT:
                if self._conn.closed:
                    await self._drop()
                raise
            except (*BROKEN, asyncio.CancelledError):
                await self._drop()
                raise
            finally:
                if timer is not None:
                    timer.cancel()

    async def run(self, query: Query[T], deadline: float = DEADLINE) -> T:
        """Run one query in a transaction of its own, within `deadline` seconds."""
        async with self.connection(deadline) as conn:
            return await run_async(conn, query)

    async def run_long(self, query: Query[T], deadline: float) -> T:
        """Run one query that may take longer than DEADLINE, in a transaction of its own, within `deadline` seconds."""
        async with self.connection(deadline) as conn, conn.transaction():
            await run_async(conn, statement_timeout(deadline - SPARE))
            return await run_async(conn, query)

    async def run_apart(self, query: Query[T], deadline: float) -> T:
        """Run one query that begins and ends transactions by itself, on a connection for it alone."""
        conn = await self._database.connect_duty(self._name, deadline - SPARE)
        timer = asyncio.get_running_loop().call_later(deadline, sever, conn)
        try:
            answer = await run_async(conn, query)
            self.answers += 1
            return answer
        finally:
            timer.cancel()
            await conn.close()

    def sever(self) -> None:
        """Make the statement that runs on the connection, if any, fail at once."""
        if self._conn is not None:
            sever(self._conn)

    async def close(self) -> None:
        """Close the connection. The statement that runs on it, if any, fails at once."""
        self.sever()
        async with self._lock:
            await self._drop()

    async def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error, OSError):
                await conn.close()
