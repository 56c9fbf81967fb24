"""The test's one connection, in a sync and an async form, in place of the app's own connections."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from pgqueue import db
from pgqueue.db.drivers import is_asyncpg, is_of
from pgqueue.db.link import DEADLINE, Link
from pgqueue.errors import ConfigError
from pgqueue.queries import Query
from pgqueue.queries.testing import BEGIN, COMMIT, UNDO
from pgqueue.testing.savepoints import JobSavepoints

T = TypeVar("T")
_ABORTED = TransactionStatus.INERROR


class SavepointConnection(psycopg.Connection[Any]):
    """A connection in a transaction that is never committed: `commit()` and `rollback()` move a savepoint.

    The server's connection below it belongs to the test, so this one neither closes it nor warns that it is open.
    """

    savepoints: JobSavepoints

    def __del__(self, *_: Any) -> None:
        """Warn of nothing."""

    def close(self) -> None:
        """Close nothing."""

    def commit(self) -> None:
        """Keep what was written since the last commit, until the test ends."""
        aborted = self.info.transaction_status == _ABORTED
        self.execute(_undo(self.savepoints) if aborted else _commit(self.savepoints))

    def rollback(self) -> None:
        """Undo what was written since the last commit."""
        self.execute(_undo(self.savepoints))


class AsyncSavepointConnection(psycopg.AsyncConnection[Any]):
    """The async twin of `SavepointConnection`."""

    savepoints: JobSavepoints

    def __del__(self, *_: Any) -> None:
        """Warn of nothing."""

    async def close(self) -> None:
        """Close nothing."""

    async def commit(self) -> None:
        """Keep what was written since the last commit, until the test ends."""
        aborted = self.info.transaction_status == _ABORTED
        await self.execute(_undo(self.savepoints) if aborted else _commit(self.savepoints))

    async def rollback(self) -> None:
        """Undo what was written since the last commit."""
        await self.execute(_undo(self.savepoints))


def _commit(savepoints: JobSavepoints) -> bytes:
    return COMMIT.encode() + savepoints.renewed()


def _undo(savepoints: JobSavepoints) -> bytes:
    return UNDO.encode() + savepoints.renewed()


@contextmanager
def rolled_back(database: db.Database) -> Iterator[db.Connection]:
    """Open a connection in a transaction that is rolled back in the end."""
    conn = database.connect("pgqueue test")
    try:
        conn.autocommit = False
        yield conn
    finally:
        conn.close()


def pgconn_of(conn: object) -> PGconn:
    """Return libpq's connection below one of psycopg, SQLAlchemy or Django, sync or async. Raises ConfigError."""
    if is_asyncpg(conn):
        raise ConfigError("tests run jobs on psycopg, and this is an asyncpg connection: give a psycopg one")
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncSession"):
        raise ConfigError("give the AsyncConnection with the outer transaction, not a session that is bound to it")
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        conn = conn.sync_connection.connection.driver_connection  # type: ignore[attr-defined]
    borrowed = conn if isinstance(conn, psycopg.AsyncConnection) else db.borrow_psycopg(conn)
    if borrowed.autocommit and borrowed.info.transaction_status == TransactionStatus.IDLE:
        raise ConfigError(
            "this connection is in no transaction, so jobs would be committed: begin one that the test rolls back"
        )
    if borrowed.info.pipeline_status:
        raise ConfigError("this connection is in pipeline mode: tests run jobs on one that is not")
    return borrowed.pgconn


class BorrowedPools(db.Pools):
    """Gives the test's connection wherever the app wants one of its own.

    psycopg's sync and async connections are thin: here both stand on one connection to the server, and so share its
    transaction. They must not be used at the same moment.
    """

    def __init__(self, pgconn: PGconn, savepoints: JobSavepoints) -> None:
        self._pgconn = pgconn
        self._savepoints = savepoints
        self._async_forms: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncSavepointConnection] = WeakKeyDictionary()
        with self._same_handlers():
            self.conn = SavepointConnection(pgconn)
        self.conn.savepoints = savepoints
        self.conn.prepare_threshold = None  # names of statements would clash

    def begin(self) -> None:
        """Set the savepoint that commit() and rollback() move."""
        self.conn.execute(BEGIN)

    @property
    def aconn(self) -> AsyncSavepointConnection:
        """The async form of the connection, for the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._async_forms:
            with self._same_handlers():
                form = self._async_forms[loop] = AsyncSavepointConnection(self._pgconn)
            form.savepoints = self._savepoints
            form.prepare_threshold = None
        return self._async_forms[loop]

    def run(self, query: Query[T]) -> T:
        """Run one query in the test's transaction."""
        return db.run(self.conn, query)

    @contextmanager
    def connection(self, *, opens: bool = True) -> Iterator[db.Connection]:
        """Give the sync form."""
        yield self.conn

    @asynccontextmanager
    async def async_connection(self) -> AsyncIterator[db.AsyncConnection]:
        """Give the async form."""
        yield self.aconn

    @contextmanager
    def lent(self) -> Iterator[db.Connection]:
        """Lend the sync form."""
        yield self.conn

    @asynccontextmanager
    async def async_lent(self) -> AsyncIterator[db.AsyncConnection]:
        """Lend the async form."""
        yield self.aconn

    def close(self) -> None:
        """Close nothing: the connection is the test's."""

    async def aclose(self) -> None:
        """Close nothing: the connection is the test's."""

    @contextmanager
    def _same_handlers(self) -> Iterator[None]:
        """Leave notices with the connection that the test made: each new form would take them for itself."""
        pgconn = self._pgconn
        kept = pgconn.notice_handler, pgconn.notify_handler
        yield
        pgconn.notice_handler, pgconn.notify_handler = kept


class BorrowedLink(Link):
    """The link of a worker's duties, to the test's connection."""

    def __init__(self, conn: db.AsyncConnection) -> None:
        self._borrowed = conn

    @asynccontextmanager
    async def connection(self, deadline: float | None = DEADLINE) -> AsyncIterator[db.AsyncConnection]:
        """Give the connection."""
        yield self._borrowed

    async def run(self, query: Query[T], deadline: float = DEADLINE) -> T:
        """Run one query; if it fails the transaction goes on without it."""
        async with self._borrowed.transaction():
            return await db.run_async(self._borrowed, query)
