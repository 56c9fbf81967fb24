"""Our own connections, for callers that lend none."""

import asyncio
import math
import os
import select
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgqueue.config import describe
from pgqueue.db.connection import (
    CONNECT_TIMEOUT,
    AsyncConnection,
    Connection,
    T,
    run,
)
from pgqueue.db.database import Database
from pgqueue.errors import DatabaseUnreachable
from pgqueue.queries import Query

IDLE_SECONDS = 10


class _Own(psycopg.Connection[Any]):
    lent_at = -math.inf


class _AsyncOwn(psycopg.AsyncConnection[Any]):
    lent_at = -math.inf


def _check(conn: _Own) -> None:
    """Raise if a connection cannot be lent again."""
    if not _is_sound(conn):
        ConnectionPool.check_connection(conn)


async def _check_async(conn: _AsyncOwn) -> None:
    """Raise if a connection cannot be lent again."""
    if not _is_sound(conn):
        await AsyncConnectionPool.check_connection(conn)


def _is_sound(conn: _Own | _AsyncOwn) -> bool:
    """Whether a connection was lent within the last seconds, and nothing has come in since it was given back.

    A server that ends a connection says so, and the network closes it: either can be read. To ask the server each time
    was a fifth of an enqueue. One that has been idle for longer is asked all the same: what stands in between may have
    forgotten it in silence.
    """
    now, before = monotonic(), conn.lent_at
    conn.lent_at = now
    return now - before < IDLE_SECONDS and not _has_input(conn.fileno())


def _has_input(fd: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()  # takes any number, as select() does not
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class Pools:
    """Our own connections, for callers that lend none. Opens nothing until one is asked for.

    A forked child never uses its parent's sockets: it gets pools of its own.
    """

    def __init__(self, database: Callable[[], Database], size: int = 8) -> None:
        self._database = database
        self._size = size
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._pool: ConnectionPool[_Own] | None = None
        self._async_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncConnectionPool[_AsyncOwn]] = (
            WeakKeyDictionary()
        )

    def run(self, query: Query[T]) -> T:
        """Run one query, committed at once."""
        pool = self._pool if self._pid == os.getpid() else None
        if pool is None:
            with self.connection() as conn:
                return run(conn, query)
        conn = _lent_by(pool)
        try:
            return run(conn, query)
        finally:
            pool.putconn(conn)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection in autocommit."""
        pool = self._sync_pool()
        conn = _lent_by(pool)
        try:
            yield conn
        finally:
            pool.putconn(conn)

    @asynccontextmanager
    async def async_connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend an async connection in autocommit, of the running event loop."""
        pool = await self._async_pool()
        try:
            conn = await pool.getconn()
        except PoolTimeout as error:
            raise _none_in_time(pool) from error
        try:
            yield conn
        finally:
            await pool.putconn(conn)

    def _sync_pool(self) -> ConnectionPool[_Own]:
        with self._lock:
            self._forget_parent()
            if self._pool is None:
                database = self._database()
                database.connect("pgqueue").close()  # says what is wrong at once; a pool would only time out
                self._pool = ConnectionPool(
                    database.dsn, connection_class=_Own, check=_check, **self._options(database)
                )
                self._pool.open()
            return self._pool

    async def _async_pool(self) -> AsyncConnectionPool[_AsyncOwn]:
        self._forget_parent()
        loop = asyncio.get_running_loop()
        pool = self._async_pools.get(loop)
        if pool is None:
            database = self._database()
            await (await database.connect_async("pgqueue")).close()
            pool = self._async_pools.get(loop)  # another asyncio task may have been faster
            if pool is None:
                pool = self._async_pools[loop] = AsyncConnectionPool(
                    database.dsn, connection_class=_AsyncOwn, check=_check_async, **self._options(database)
                )
                await pool.open()
        return pool

    def _options(self, database: Database) -> dict[str, Any]:
        settings = database.settings | {"application_name": "pgqueue"}
        return {"kwargs": settings, "min_size": 0, "max_size": self._size, "open": False, "timeout": CONNECT_TIMEOUT}

    def _forget_parent(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._pool = None
            self._async_pools = WeakKeyDictionary()

    def close(self) -> None:
        """Close the sync pool. The next call opens a new one."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close the running event loop's pool. The next call opens a new one."""
        pool = self._async_pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()


def _lent_by(pool: ConnectionPool[_Own]) -> _Own:
    try:
        return pool.getconn()
    except PoolTimeout as error:
        raise _none_in_time(pool) from error


def _none_in_time(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> DatabaseUnreachable:
    return DatabaseUnreachable(f"no connection to {describe(str(pool.conninfo))} within {CONNECT_TIMEOUT} s")
