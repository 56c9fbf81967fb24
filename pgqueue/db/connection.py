"""Running a statement on a connection."""

from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgqueue.db.asyncpg import AsyncpgConnection
from pgqueue.db.failures import EXPLAINED, explained
from pgqueue.queries import Query
from pgqueue.queries.base import nothing

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
AnyAsyncConnection: TypeAlias = AsyncConnection | AsyncpgConnection


def run(conn: Connection, query: Query[T]) -> T:
    """Run a query. It never commits: a connection in a transaction stays in it."""
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    try:
        cursor.execute(query.sql, query.params or None, binary=_format(query))
        return query.read([] if query.read is nothing else cursor.fetchall())
    except EXPLAINED as error:
        raise _explained(conn, error) from None
    finally:
        cursor.close()


async def run_async(conn: AnyAsyncConnection, query: Query[T]) -> T:
    """Run a query. It never commits: a connection in a transaction stays in it."""
    if isinstance(conn, AsyncpgConnection):
        return await conn.run(query)
    cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
    try:
        await cursor.execute(query.sql, query.params or None, binary=_format(query))
        return query.read([] if query.read is nothing else await cursor.fetchall())
    except EXPLAINED as error:
        raise _explained(conn, error) from None
    finally:
        await cursor.close()


def _format(query: Query[Any]) -> bool | None:
    """Rows are read in binary: as text, a time or a float is written as the settings of the session have it."""
    return None if query.read is nothing else True


def _explained(conn: Connection | AsyncConnection, error: Exception) -> Exception:
    return explained(error, f"database {conn.info.dbname!r}", f"role {conn.info.user!r}") or error


def autocommits(conn: Connection | AnyAsyncConnection) -> bool:
    """Whether each statement commits by itself: autocommit is on and no transaction is open."""
    if isinstance(conn, AsyncpgConnection):
        return conn.autocommits
    return conn.autocommit and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
