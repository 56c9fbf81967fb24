"""Running queries: two small drivers, the caller's connection borrowed, our own connections made when first needed."""

import asyncio
import math
import os
import select
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgqueue.config import describe
from pgqueue.drivers import Asyncpg, in_django, is_asyncpg, is_django, is_of
from pgqueue.errors import DatabaseUnreachable, NotAllowed, NotMigrated, PgqueueError, UnsupportedConnection
from pgqueue.queries import Query
from pgqueue.queries.base import nothing

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
AnyAsyncConnection: TypeAlias = AsyncConnection | Asyncpg

CONNECT_TIMEOUT = 10
IDLE_SECONDS = 10
PLANNING = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off"
_EXPLAINED = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InsufficientPrivilege,
)


def run(conn: Connection, query: Query[T]) -> T:
    """Execute a query. Never commits: a connection in a transaction stays in it."""
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    try:
        cursor.execute(query.sql, query.params or None, binary=True if query.params else None)
        return query.read([] if query.read is nothing else cursor.fetchall())
    except _EXPLAINED as error:
        raise _explained(conn, error) from None
    finally:
        cursor.close()


async def run_async(conn: AnyAsyncConnection, query: Query[T]) -> T:
    """Execute a query. Never commits: a connection in a transaction stays in it."""
    if isinstance(conn, Asyncpg):
        return await conn.run(query)
    cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
    try:
        await cursor.execute(query.sql, query.params or None, binary=True if query.params else None)
        return query.read([] if query.read is nothing else await cursor.fetchall())
    except _EXPLAINED as error:
        raise _explained(conn, error) from None
    finally:
        await cursor.close()


def _explained(conn: Connection | AsyncConnection, error: Exception) -> PgqueueError:
    said = str(error).splitlines()[0]
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return NotAllowed(f"role {conn.info.user!r}: {said} (docs/operations.md says what each role needs)")
    return NotMigrated(
        f"database {conn.info.dbname!r} does not have the tables this pgqueue needs ({said}): run `pgqueue migrate`"
    )


@dataclass(frozen=True, slots=True)
class Database:
    """Where our own connections go. `prepare`: whether statements may be prepared; PgBouncer may not allow it."""

    dsn: str
    prepare: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What every connection of our own has: autocommit, so that each statement is its own transaction."""
        settings: dict[str, Any] = {"autocommit": True, "connect_timeout": CONNECT_TIMEOUT}
        return settings if self.prepare else settings | {"prepare_threshold": None}

    def connect(self, name: str) -> Connection:
        """Open a connection."""
        with _reachable(self.dsn):
            return psycopg.connect(self.dsn, **self._settings_of(name))

    async def connect_async(self, name: str) -> AsyncConnection:
        """Open an async connection."""
        with _reachable(self.dsn):
            return await psycopg.AsyncConnection.connect(self.dsn, **self._settings_of(name))

    async def connect_duty(self, name: str) -> AsyncConnection:
        """Open the connection of a duty: for statements of ours alone.

        A plan that was made and kept while a table was small reads it whole when it has grown, until it is analysed.
        After each VACUUM the planner thinks again, and of dead entries it knows nothing. So these connections prefer an
        index in its order, whatever a table's size; nor is any statement of ours worth compiling.
        """
        with _reachable(self.dsn):
            return await psycopg.AsyncConnection.connect(self.dsn, **self._settings_of(name) | self._planning())

    def _planning(self) -> dict[str, Any]:
        if not self.prepare:  # each statement is planned anew; and PgBouncer knows no such settings
            return {}
        return {"options": f"{PLANNING} {conninfo_to_dict(self.dsn).get('options') or ''}"}

    def _settings_of(self, name: str) -> dict[str, Any]:
        # A shorter timeout in the DSN stands.
        timeout = {"connect_timeout": CONNECT_TIMEOUT} | conninfo_to_dict(self.dsn)
        return self.settings | {"application_name": name, "connect_timeout": timeout["connect_timeout"]}


@contextmanager
def _reachable(dsn: str) -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise DatabaseUnreachable(f"cannot connect to {describe(dsn)}: {str(error).strip()}") from error


def borrow(conn: object) -> Connection:
    """Return the psycopg connection inside `conn`, to be used in the caller's transaction.

    Takes a psycopg Connection, a SQLAlchemy Connection or Session on the psycopg driver, or a connection of Django's.
    Never commits, never closes.
    """
    if isinstance(conn, psycopg.Connection):
        return conn
    if is_of(conn, "sqlalchemy.orm", "scoped_session"):
        conn = conn()  # type: ignore[operator]  # a scoped_session is called for its Session
    if is_of(conn, "sqlalchemy.orm", "Session"):
        conn = conn.connection()  # type: ignore[attr-defined]
    if is_of(conn, "sqlalchemy", "Connection"):
        _autobegin(conn)
        conn = conn.connection.driver_connection  # type: ignore[attr-defined]
    elif is_django(conn):
        conn = in_django(conn)
    if isinstance(conn, psycopg.Connection):
        return conn
    raise _unsupported(conn, asynchronous=False)


async def borrow_async(conn: object) -> AnyAsyncConnection:
    """Return the async connection inside `conn`: the twin of `borrow` for AsyncConnection and AsyncSession.

    The driver may be asyncpg, too.
    """
    if isinstance(conn, psycopg.AsyncConnection):
        return conn
    if is_of(conn, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        conn = conn()  # type: ignore[operator]
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncSession"):
        conn = await conn.connection()  # type: ignore[attr-defined]
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        conn = await _inside(conn)
    if isinstance(conn, psycopg.AsyncConnection):
        return conn
    if is_asyncpg(conn):
        return Asyncpg(conn)
    raise _unsupported(conn, asynchronous=True)


async def _inside(conn: Any) -> object:
    """Return the driver's connection inside SQLAlchemy's AsyncConnection, in a transaction that SQLAlchemy knows of."""
    _autobegin(conn.sync_connection)
    driver: object = (await conn.get_raw_connection()).driver_connection
    if is_asyncpg(driver) and not driver.is_in_transaction():  # type: ignore[attr-defined]
        # psycopg begins by itself, with the first statement of whoever. Here it is SQLAlchemy that does, with its own.
        await conn.exec_driver_sql("select 1")
    return driver


def _autobegin(conn: Any) -> None:
    # SQLAlchemy commits only what it knows to be in a transaction; its own execute() begins one like this.
    if not conn.in_transaction():
        conn.begin()


def _unsupported(conn: object, *, asynchronous: bool) -> UnsupportedConnection:
    kind = f"{type(conn).__module__}.{type(conn).__qualname__}"
    wanted = (
        "a psycopg AsyncConnection, an asyncpg one, or a SQLAlchemy one on either"
        if asynchronous
        else "a psycopg Connection, a SQLAlchemy one on postgresql+psycopg, or Django's"
    )
    return UnsupportedConnection(f"cannot enqueue on a {kind}: give {wanted}.{_hint(conn, kind, asynchronous)}")


def _hint(conn: object, kind: str, asynchronous: bool) -> str:
    if kind.endswith(("Engine", "Pool", "Cursor")):
        return " Give the connection or session itself, whose transaction the job is to belong to."
    if asynchronous and is_django(conn):
        return " Django's transactions are sync: call enqueue() in a function that sync_to_async runs."
    if asynchronous and (isinstance(conn, psycopg.Connection) or kind.startswith("sqlalchemy")):
        return " A sync connection goes with enqueue(), get() and so on, without the a."
    if not asynchronous and ("sync" in kind.lower() or is_asyncpg(conn)):
        return " An async connection goes with aenqueue(), aget() and so on."
    return ""


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

    def __init__(self, size: int = 8) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._pool: ConnectionPool[_Own] | None = None
        self._async_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncConnectionPool[_AsyncOwn]] = (
            WeakKeyDictionary()
        )

    def run(self, database: Callable[[], Database], query: Query[T]) -> T:
        """Run one query, committed at once. `database` is asked only for the first of our connections."""
        pool = self._pool if self._pid == os.getpid() else None
        if pool is None:
            with self.connection(database()) as conn:
                return run(conn, query)
        conn = _lent_by(pool)
        try:
            return run(conn, query)
        finally:
            pool.putconn(conn)

    @contextmanager
    def connection(self, database: Database) -> Iterator[Connection]:
        """Lend a connection in autocommit."""
        pool = self._sync_pool(database)
        conn = _lent_by(pool)
        try:
            yield conn
        finally:
            pool.putconn(conn)

    @asynccontextmanager
    async def async_connection(self, database: Database) -> AsyncIterator[AsyncConnection]:
        """Lend an async connection in autocommit, of the running event loop."""
        pool = await self._async_pool(database)
        try:
            conn = await pool.getconn()
        except PoolTimeout as error:
            raise _none_in_time(pool) from error
        try:
            yield conn
        finally:
            await pool.putconn(conn)

    def _sync_pool(self, database: Database) -> ConnectionPool[_Own]:
        with self._lock:
            self._forget_parent()
            if self._pool is None:
                database.connect("pgqueue").close()  # says what is wrong at once; a pool would only time out
                self._pool = ConnectionPool(
                    database.dsn, connection_class=_Own, check=_check, **self._options(database)
                )
                self._pool.open()
            return self._pool

    async def _async_pool(self, database: Database) -> AsyncConnectionPool[_AsyncOwn]:
        self._forget_parent()
        loop = asyncio.get_running_loop()
        pool = self._async_pools.get(loop)
        if pool is None:
            await (await database.connect_async("pgqueue")).close()
            pool = self._async_pools.get(loop)  # another task may have been faster
        if pool is None:
            pool = AsyncConnectionPool(
                database.dsn, connection_class=_AsyncOwn, check=_check_async, **self._options(database)
            )
            self._async_pools[loop] = pool
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


def is_own(conn: Connection | AnyAsyncConnection) -> bool:
    """Whether nobody is in a transaction on this connection, and each statement is one of its own."""
    if isinstance(conn, Asyncpg):
        return conn.is_own
    return conn.autocommit and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@contextmanager
def all_or_nothing(conn: Connection) -> Iterator[None]:
    """Make several statements one unit on an autocommit connection; elsewhere the caller's transaction is that unit."""
    if is_own(conn):
        with conn.transaction():
            yield
    else:
        yield


@asynccontextmanager
async def all_or_nothing_async(conn: AnyAsyncConnection) -> AsyncIterator[None]:
    """Make several statements one unit on an autocommit connection; elsewhere the caller's transaction is that unit."""
    if isinstance(conn, Asyncpg):
        async with conn.all_or_nothing():
            yield
    elif is_own(conn):
        async with conn.transaction():
            yield
    else:
        yield


def savepoint_async(conn: AnyAsyncConnection) -> AbstractAsyncContextManager[Any]:
    """Make several statements one unit inside a transaction: what raises undoes them, and the transaction goes on."""
    return conn.savepoint() if isinstance(conn, Asyncpg) else conn.transaction()
