"""Running a statement on a connection, and the transaction around several."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgqueue.db.asyncpg import Asyncpg
from pgqueue.errors import NotAllowed, NotMigrated, PgqueueError
from pgqueue.queries import Query
from pgqueue.queries.base import nothing

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
AnyAsyncConnection: TypeAlias = AsyncConnection | Asyncpg

CONNECT_TIMEOUT = 10


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
