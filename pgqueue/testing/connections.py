"""The test's one connection, in its sync and its async form, standing for the app's own ones."""

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
from pgqueue.testing.restore import Restore

T = TypeVar("T")
_BROKEN = TransactionStatus.INERROR


class Uncommitted(psycopg.Connection[Any]):
    """A connection in a transaction that is never committed: `commit()` and `rollback()` move a savepoint."""

    restore: Restore

    def __del__(self, *_: Any) -> None:
        """Say nothing: what is below has an owner."""

    def close(self) -> None:
        """Leave that to the owner."""

    def commit(self) -> None:
        """Keep what was written since the last commit, until the test ends."""
        self.execute(_undo(self.restore) if self.info.transaction_status == _BROKEN else _commit(self.restore))

    def rollback(self) -> None:
        """Undo what was written since the last commit."""
        self.execute(_undo(self.restore))


class AsyncUncommitted(psycopg.AsyncConnection[Any]):
    """The async twin of `Uncommitted`."""

    restore: Restore

    def __del__(self, *_: Any) -> None:
        """Say nothing: what is below has an owner."""

    async def close(self) -> None:
        """Leave that to the owner."""

    async def commit(self) -> None:
        """Keep what was written since the last commit, until the test ends."""
        await self.execute(_undo(self.restore) if self.info.transaction_status == _BROKEN else _commit(self.restore))

    async def rollback(self) -> None:
        """Undo what was written since the last commit."""
        await self.execute(_undo(self.restore))


def _commit(restore: Restore) -> bytes:
    return COMMIT.encode() + restore.marks()


def _undo(restore: Restore) -> bytes:
    return UNDO.encode() + restore.marks()


@contextmanager
def rolled_back(database: db.Database) -> Iterator[db.Connection]:
    """Lend a connection in a transaction that is rolled back in the end."""
    conn = database.connect("pgqueue test")
    try:
        conn.autocommit = False
        yield conn
    finally:
        conn.close()


def pgconn_of(conn: object) -> PGconn:
    """Return what is under a connection of psycopg, SQLAlchemy or Django, sync or async. Raises ConfigError."""
    if is_asyncpg(conn):
        raise ConfigError("tests run jobs on psycopg, and this is an asyncpg connection: give a psycopg one")
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncSession"):
        raise ConfigError("give the AsyncConnection with the outer transaction, not a session that is bound to it")
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        conn = conn.sync_connection.connection.driver_connection  # type: ignore[attr-defined]
    lent = conn if isinstance(conn, psycopg.AsyncConnection) else db.borrow(conn)
    if lent.autocommit and lent.info.transaction_status == TransactionStatus.IDLE:
        raise ConfigError(
            "this connection is in no transaction, so jobs would be committed: begin one that the test rolls back"
        )
    if lent.info.pipeline_status:
        raise ConfigError("this connection is in pipeline mode: tests run jobs on one that is not")
    return lent.pgconn


class LentPools(db.Pools):
    """Lends the test's connection wherever the app wants one of its own.

    psycopg's sync and async connections are thin: here both stand on one connection to the server, and so share its
    transaction. They must not be used at the same moment.
    """

    def __init__(self, pgconn: PGconn, restore: Restore) -> None:
        super().__init__()
        self._pgconn = pgconn
        self._restore = restore
        self._faces: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncUncommitted] = WeakKeyDictionary()
        with self._same_handlers():
            self.conn = Uncommitted(pgconn)
        self.conn.restore = restore
        self.conn.prepare_threshold = None  # names of statements would clash

    def begin(self) -> None:
        """Mark where commit() and rollback() start from."""
        self.conn.execute(BEGIN)

    @property
    def aconn(self) -> AsyncUncommitted:
        """The async form of the connection, for the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._faces:
            with self._same_handlers():
                self._faces[loop] = AsyncUncommitted(self._pgconn)
            self._faces[loop].restore = self._restore
            self._faces[loop].prepare_threshold = None
        return self._faces[loop]

    @contextmanager
    def connection(self, database: db.Database) -> Iterator[db.Connection]:
        """Lend the sync form."""
        yield self.conn

    @asynccontextmanager
    async def async_connection(self, database: db.Database) -> AsyncIterator[db.AsyncConnection]:
        """Lend the async form."""
        yield self.aconn

    @contextmanager
    def _same_handlers(self) -> Iterator[None]:
        """Leave notices with the connection that its owner made."""
        pgconn = self._pgconn
        kept = pgconn.notice_handler, pgconn.notify_handler
        yield
        pgconn.notice_handler, pgconn.notify_handler = kept


class LentLink(Link):
    """The link of a worker's duties, to the test's connection."""

    def __init__(self, conn: db.AsyncConnection) -> None:
        self._lent = conn

    @asynccontextmanager
    async def connection(self, deadline: float | None = DEADLINE) -> AsyncIterator[db.AsyncConnection]:
        """Lend the connection."""
        yield self._lent

    async def run(self, query: Query[T], deadline: float = DEADLINE) -> T:
        """Run one query; if it fails the transaction goes on without it."""
        async with self._lent.transaction():
            return await db.run_async(self._lent, query)
