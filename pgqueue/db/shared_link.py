"""Links that share their connections: those of many schemas of one server need no more than those of a few."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg

from pgqueue.db.connection import AsyncConnection
from pgqueue.db.database import Database
from pgqueue.db.failures import BROKEN, TIMED_OUT
from pgqueue.db.link import DEADLINE, SPARE, Link, sever
from pgqueue.timing import monotonic

IDLE_SECONDS = 30.0  # after which a connection is closed, unless it is the only one


class LinkPool:
    """At most `size` connections to one database, made when they are needed, for links that use them in turn."""

    def __init__(self, database: Database, name: str, size: int) -> None:
        self._database = database
        self._name = name
        self._room = asyncio.Semaphore(size)
        self._idle: deque[tuple[AsyncConnection, float]] = deque()  # and since when; the last one is used next

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection, when there is one. Whoever breaks it closes it."""
        async with self._room:
            conn = await self._take()
            try:
                yield conn
            finally:
                if not conn.closed:
                    self._idle.append((conn, monotonic()))
                while len(self._idle) > 1 and self._idle[0][1] < monotonic() - IDLE_SECONDS:
                    await _closed(self._idle.popleft()[0])

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            await _closed(self._idle.pop()[0])

    async def _take(self) -> AsyncConnection:
        while self._idle:
            conn, _ = self._idle.pop()
            if not conn.closed:
                return conn
        return await self._database.connect_duty(self._name, DEADLINE - SPARE)


class SharedLink(Link):
    """A link whose connection is its own only while it is used. `turns` bounds how many connections those of one schema
    use at a time, so that a schema in which statements wait for locks leaves some to the others."""

    def __init__(self, pool: LinkPool, turns: asyncio.Semaphore, database: Database, name: str) -> None:
        super().__init__(database, name)
        self._pool = pool
        self._turns = turns

    @asynccontextmanager
    async def connection(self, deadline: float | None = DEADLINE) -> AsyncIterator[AsyncConnection]:
        """Give a connection for at most `deadline` seconds. A failure meanwhile closes it: its state is unknown."""
        async with self._lock, self._turns, self._pool.connection() as conn:
            self._conn = conn
            timer = None if deadline is None else asyncio.get_running_loop().call_later(deadline, sever, conn)
            try:
                yield conn
                self.answers += 1
            except TIMED_OUT:
                raise
            except (*BROKEN, asyncio.CancelledError):
                await _closed(conn)
                raise
            finally:
                self._conn = None
                if timer is not None:
                    timer.cancel()


async def _closed(conn: AsyncConnection) -> None:
    with suppress(psycopg.Error, OSError):
        await conn.close()
