"""Pools of own connections, for verbs without a borrowed one."""

import asyncio
import atexit
import math
import os
import select
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgqueue.config import describe_dsn
from pgqueue.db.connection import AsyncConnection, Connection, run
from pgqueue.db.database import CONNECT_TIMEOUT, Database
from pgqueue.db.lent import RESET, lend, lend_async
from pgqueue.errors import DatabaseUnreachable, ReadOnlyDatabase
from pgqueue.queries import Query

T = TypeVar("T")
IDLE_SECONDS = 10


class PooledConnection(psycopg.Connection[Any]):
    """A connection of a pool. `taken_at`: when it last left the pool, by the monotonic clock. `is_spent`: its server
    takes no writes, and another connection may lead to the primary."""

    taken_at = -math.inf
    is_spent = False


class AsyncPooledConnection(psycopg.AsyncConnection[Any]):
    """The async twin of `PooledConnection`."""

    taken_at = -math.inf
    is_spent = False


def _check(conn: PooledConnection) -> None:
    """Raise if a connection can no longer be used. The pool then tries another one."""
    if conn.is_spent:
        conn.close()
        raise _spent()
    if not _is_sound(conn):
        ConnectionPool.check_connection(conn)


async def _check_async(conn: AsyncPooledConnection) -> None:
    """Raise if a connection can no longer be used. The pool then tries another one."""
    if conn.is_spent:
        await conn.close()
        raise _spent()
    if not _is_sound(conn):
        await AsyncConnectionPool.check_connection(conn)


def _spent() -> psycopg.Error:
    """Return why a connection that led to a read-only server is left: when the next one is needed, and not at once,
    because an async pool that connects while its event loop ends would keep that from ending."""
    return psycopg.OperationalError("the server takes no writes")


def _is_sound(conn: PooledConnection | AsyncPooledConnection) -> bool:
    """Whether a connection was taken within the last IDLE_SECONDS, and has nothing to read.

    A server that ends a connection sends a message, and a network that does closes the socket: both make it readable.
    Asking the server each time took a fifth of an enqueue. After a longer pause the pool does ask it, because a
    firewall or proxy may have dropped the connection without a word.
    """
    now, before = monotonic(), conn.taken_at
    conn.taken_at = now
    return now - before < IDLE_SECONDS and not _has_input(conn.fileno())


def _has_input(fd: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()  # takes any file descriptor; select() only those below 1024
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class _AsyncPool(AsyncConnectionPool[AsyncPooledConnection]):
    """An async pool that can be closed after its event loop has ended."""

    def abandon(self) -> None:
        """Close the idle connections without the event loop."""
        while self._pool:
            self._pool.popleft().pgconn.finish()


def _reset(conn: PooledConnection) -> None:
    conn.execute(RESET, prepare=False)


async def _reset_async(conn: AsyncPooledConnection) -> None:
    await conn.execute(RESET, prepare=False)


class Pools:
    """An app's own connections: a sync pool, and an async one for each event loop. Each opens when first used.

    Tasks are lent connections of pools of their own (`lent`): these are reset after each use, which the verbs' do not
    need, and a task that enqueues inside its transaction never waits for a connection that another such task holds.

    A forked child never uses its parent's sockets: it opens pools of its own. `database` is called when a pool opens.
    """

    def __init__(self, database: Callable[[], Database], size: int = 8, *, resets: bool = False) -> None:
        self._database = database
        self._size = size
        self._resets = resets
        self._lenders: Pools | None = None
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._pool: ConnectionPool[PooledConnection] | None = None
        self._async_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _AsyncPool] = WeakKeyDictionary()

    def _forget(self) -> None:
        """Leave the pools and the lock of the process that this one was forked from."""
        for pool in (self._pool, *self._async_pools.values()):
            if pool is not None:
                pool._closed = True  # its destructor would wait for locks that a thread of the parent may hold
        self._begin()

    def run(self, query: Query[T]) -> T:
        """Run one query, committed at once."""
        # Most enqueues take this path. A context manager would make it slower.
        pool = self._pool if self._pid == os.getpid() else None
        if pool is None:
            with self.connection() as conn:
                return run(conn, query)
        conn = _taken_from(pool)
        try:
            return run(conn, query)
        except ReadOnlyDatabase:
            conn.is_spent = True
            raise
        finally:
            pool.putconn(conn)

    @contextmanager
    def connection(self, *, opens: bool = True) -> Iterator[Connection]:
        """Give a connection in autocommit, and take it back. Without `opens` only of a pool that is open: raises
        DatabaseUnreachable where it was closed."""
        pool = self._sync_pool(opens)
        conn = _taken_from(pool)
        try:
            yield conn
        except ReadOnlyDatabase:
            conn.is_spent = True
            raise
        finally:
            pool.putconn(conn)

    @asynccontextmanager
    async def async_connection(self) -> AsyncIterator[AsyncConnection]:
        """The async twin of `connection`, from the pool of the running event loop."""
        pool = await self._async_pool()
        try:
            conn = await pool.getconn()
        except PoolTimeout as error:
            raise _none_in_time(pool) from error
        try:
            yield conn
        except ReadOnlyDatabase:
            conn.is_spent = True
            raise
        finally:
            await pool.putconn(conn)

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """Lend a connection in autocommit to a task. What the task sets on it is reset before the next use."""
        with self._lending().connection() as conn, lend(conn) as lent:
            yield lent

    @asynccontextmanager
    async def async_lent(self) -> AsyncIterator[AsyncConnection]:
        """The async twin of `lent`."""
        async with self._lending().async_connection() as conn, lend_async(conn) as lent:
            yield lent

    def _lending(self) -> "Pools":
        with self._lock:
            if self._lenders is None:
                self._lenders = Pools(self._database, self._size, resets=True)
            return self._lenders

    def _sync_pool(self, opens: bool = True) -> ConnectionPool[PooledConnection]:
        with self._lock:
            self._forget_parent()
            if self._pool is None and not opens:
                raise DatabaseUnreachable("the app's connections were closed")
            if self._pool is None:
                database = self._database()
                database.connect("pgqueue").close()  # raises the reason at once; a pool would only time out
                self._pool = ConnectionPool(
                    database.fresh or database.dsn,
                    connection_class=PooledConnection,
                    check=_check,
                    reset=_reset if self._resets else None,
                    **self._options(database),
                )
                self._pool.open()
            return self._pool

    async def _async_pool(self) -> "_AsyncPool":
        self._forget_parent()
        loop = asyncio.get_running_loop()
        pool = self._async_pools.get(loop)
        if pool is None:
            self._drop_closed_loops()
            database = self._database()
            await (await database.connect_async("pgqueue")).close()
            pool = self._async_pools.get(loop)  # another asyncio task may have been faster
            if pool is None:
                fresh = None if database.fresh is None else partial(asyncio.to_thread, database.fresh)
                pool = self._async_pools[loop] = _AsyncPool(
                    fresh or database.dsn,
                    connection_class=AsyncPooledConnection,
                    check=_check_async,
                    reset=_reset_async if self._resets else None,
                    **self._options(database),
                )
                await pool.open()
        return pool

    def _options(self, database: Database) -> dict[str, Any]:
        settings = database.settings | {"application_name": "pgqueue"}
        return {
            "kwargs": settings,
            "min_size": 0,
            "max_size": self._size,
            "max_idle": IDLE_SECONDS,  # after which it would be asked first anyway, and another may need it more
            "open": False,
            "timeout": CONNECT_TIMEOUT,
        }

    def _forget_parent(self) -> None:
        # The hook after a fork has done this already, except where a process is cloned past Python.
        if self._pid != os.getpid():
            self._forget()

    def _drop_closed_loops(self) -> None:
        """Close the connections of event loops that have ended: `asyncio.run` for each call makes many."""
        for loop in [loop for loop in list(self._async_pools) if loop.is_closed()]:
            pool = self._async_pools.pop(loop, None)
            if pool is not None:
                pool.abandon()

    def close(self) -> None:
        """Close the sync pool, and the pools of event loops that have ended. The next call opens a new one."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self._drop_closed_loops()
        if self._lenders is not None:
            self._lenders.close()

    async def aclose(self) -> None:
        """Close the running event loop's pool. The next call opens a new one."""
        pool = self._async_pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()
        self._drop_closed_loops()
        if self._lenders is not None:
            await self._lenders.aclose()


_all: WeakSet[Pools] = WeakSet()


def _forget_parents() -> None:
    for pools in list(_all):
        pools._forget()


def _close_all() -> None:
    # While threads can still end: from Python 3.13 on, a pool that is collected later waits 5 s for each of its own.
    for pools in list(_all):
        if pools._pid == os.getpid():
            pools.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)
atexit.register(_close_all)


def _taken_from(pool: ConnectionPool[PooledConnection]) -> PooledConnection:
    try:
        return pool.getconn()
    except PoolTimeout as error:
        raise _none_in_time(pool) from error


def _none_in_time(pool: ConnectionPool[Any] | AsyncConnectionPool[Any]) -> DatabaseUnreachable:
    where = describe_dsn(pool.conninfo) if isinstance(pool.conninfo, str) else "the database"
    return DatabaseUnreachable(f"no connection to {where} within {CONNECT_TIMEOUT} s")
