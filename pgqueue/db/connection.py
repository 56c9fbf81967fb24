"""Running a statement on a connection."""

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgqueue.db.asyncpg import AsyncpgConnection, numbered
from pgqueue.db.failures import EXPLAINED, explained
from pgqueue.queries import Query
from pgqueue.queries.base import nothing

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
AnyAsyncConnection: TypeAlias = AsyncConnection | AsyncpgConnection
LONG = 4096  # bytes of a statement: psycopg reads the placeholders of a longer one anew at each call


class AwaitedConnection:
    """A borrowed async connection in sync code that SQLAlchemy runs for async code: `run_sync`, events of a session.

    SQLAlchemy runs such code in a greenlet of its own, which hands each coroutine to the event loop.
    """

    def __init__(self, conn: AnyAsyncConnection) -> None:
        self._conn = conn
        self._await: Callable[[Awaitable[Any]], Any] = sys.modules["sqlalchemy.util"].await_only

    def run(self, query: Query[T]) -> T:
        """Run a query in the caller's transaction. It never commits."""
        result: T = self._await(run_async(self._conn, query))
        return result

    @property
    def autocommits(self) -> bool:
        """Whether each statement commits by itself: no transaction is open."""
        return autocommits(self._conn)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make several statements one unit: a transaction, or a savepoint in one that is open."""
        unit = self._conn.transaction()
        self._await(unit.__aenter__())
        try:
            yield
        except BaseException as error:
            self._await(unit.__aexit__(type(error), error, error.__traceback__))
            raise
        self._await(unit.__aexit__(None, None, None))


AnyConnection: TypeAlias = Connection | AwaitedConnection


def run(conn: AnyConnection, query: Query[T]) -> T:
    """Run a query. It never commits: a connection in a transaction stays in it."""
    if isinstance(conn, AwaitedConnection):
        return conn.run(query)
    text, params = as_sent(query)
    kind = psycopg.Cursor if params is query.params else psycopg.RawCursor
    cursor = kind(conn, row_factory=tuple_row)
    try:
        cursor.execute(text, params or None, binary=_format(query))
        return query.read([] if query.read is nothing else cursor.fetchall())
    except EXPLAINED as error:
        raise _explained(conn, error) from None
    finally:
        cursor.close()


async def run_async(conn: AnyAsyncConnection, query: Query[T]) -> T:
    """Run a query. It never commits: a connection in a transaction stays in it."""
    if isinstance(conn, AsyncpgConnection):
        return await conn.run(query)
    text, params = as_sent(query)
    kind = psycopg.AsyncCursor if params is query.params else psycopg.AsyncRawCursor
    cursor = kind(conn, row_factory=tuple_row)
    try:
        await cursor.execute(text, params or None, binary=_format(query))
        return query.read([] if query.read is nothing else await cursor.fetchall())
    except EXPLAINED as error:
        raise _explained(conn, error) from None
    finally:
        await cursor.close()


def as_sent(query: Query[Any]) -> tuple[bytes, Mapping[str, Any] | Sequence[Any]]:
    """Return the statement and its parameters: those of a long one by numbers, unless one asks for a format."""
    if len(query.sql) <= LONG or not query.params or b")b" in query.sql:
        return query.sql, query.params
    text, names = numbered(query.sql, frozenset())
    return text.encode(), [query.params[name] for name in names]


def _format(query: Query[Any]) -> bool | None:
    """Rows are read in binary: as text, a time or a float is written as the settings of the session have it."""
    return None if query.read is nothing else True


def _explained(conn: Connection | AsyncConnection, error: Exception) -> Exception:
    return explained(error, f"database {conn.info.dbname!r}", f"role {conn.info.user!r}") or error


def autocommits(conn: AnyConnection | AnyAsyncConnection) -> bool:
    """Whether each statement commits by itself: autocommit is on and no transaction is open."""
    if isinstance(conn, (AsyncpgConnection, AwaitedConnection)):
        return conn.autocommits
    return conn.autocommit and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
