"""Connections that come back: for a process that outlives its database's restarts, and never waits for ever."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import psycopg

from pgqueue import db
from pgqueue.db.failures import BROKEN
from pgqueue.queries import Query

T = TypeVar("T")


DEADLINE = 10.0


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
