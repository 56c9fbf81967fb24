"""Connections that `ctx.transaction()` lends to a task: nothing that the task does to one reaches the next task."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.pq import PGconn, TransactionStatus
from psycopg.sql import Composable

from pgqueue.errors import UnsupportedConnection

C = TypeVar("C", bound="LentConnection | AsyncLentConnection")

# What DISCARD ALL does, in one round trip: that cannot stand beside other statements. It leaves a role of the DSN's
# options or of ALTER ROLE unset, and RESET ROLE restores that.
RESET = b"""
    set session authorization default; reset role; reset all; close all; deallocate all; unlisten *;
    select pg_catalog.pg_advisory_unlock_all(); discard plans; discard temp; discard sequences"""

_QUOTED = re.compile(rb"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"[^\"]*\"|(\$\w*\$).*?\1", re.S)
_ENDS = re.compile(
    rb"(?:\A|;)\s*(?:commit|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b)|abort|prepare\s+transaction)\b|"
    rb"\A\s*(?:end|begin|start\s+transaction)\b",
    re.I,
)


def check_statement(statement: Any) -> None:
    """Refuse a statement that ends the transaction: what it wrote before would be committed without the job."""
    if isinstance(statement, Composable):
        statement = statement.as_bytes(None)
    if isinstance(statement, str):
        statement = statement.encode()
    if isinstance(statement, bytes) and _ENDS.search(_QUOTED.sub(b" ", statement)):
        raise UnsupportedConnection(
            "a statement that begins or ends a transaction cannot run inside ctx.transaction(): the block commits at "
            "its end and rolls back on an error; use conn.transaction() or SAVEPOINT for a part of it"
        )


class LentCursor(psycopg.Cursor[Any]):
    """A cursor that does not end the transaction."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> "LentCursor":
        """Run a statement. Raises UnsupportedConnection for one that ends the transaction."""
        check_statement(query)
        super().execute(query, *args, **kwargs)
        return self


class AsyncLentCursor(psycopg.AsyncCursor[Any]):
    """The async twin of `LentCursor`."""

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> "AsyncLentCursor":
        """Run a statement. Raises UnsupportedConnection for one that ends the transaction."""
        check_statement(query)
        await super().execute(query, *args, **kwargs)
        return self


class LentConnection(psycopg.Connection[Any]):
    """The connection of one `ctx.transaction()` block."""

    def __del__(self, *_: Any) -> None:
        """Warn of nothing: the pool closes the server's connection below this object."""


class AsyncLentConnection(psycopg.AsyncConnection[Any]):
    """The async twin of `LentConnection`."""

    def __del__(self, *_: Any) -> None:
        """Warn of nothing: the pool closes the server's connection below this object."""


@contextmanager
def lend(owner: psycopg.Connection[Any]) -> Iterator[LentConnection]:
    """Lend the server's connection below `owner`, in a Python object of its own.

    Row factories, adapters, handlers and the like belong to that object, which is used once. A task that keeps it
    beyond the block finds it closed.
    """
    lent = _lent(LentConnection, owner)
    lent.cursor_factory = LentCursor
    try:
        yield lent
    finally:
        lent.pgconn = PGconn()


@asynccontextmanager
async def lend_async(owner: psycopg.AsyncConnection[Any]) -> AsyncIterator[AsyncLentConnection]:
    """The async twin of `lend`."""
    lent = _lent(AsyncLentConnection, owner)
    lent.cursor_factory = AsyncLentCursor
    try:
        yield lent
    finally:
        lent.pgconn = PGconn()


def _lent(kind: Callable[..., C], owner: Any) -> C:
    lent: Any = kind(owner.pgconn)
    lent._autocommit = owner.autocommit  # the setter of the async twin cannot be awaited here
    lent.prepare_threshold = owner.prepare_threshold
    found: C = lent
    return found


def check_open(conn: object, marked: bool) -> None:
    """Raise UnsupportedConnection unless the block's transaction is still open, whatever way the task ended it.

    `marked`: whether the open transaction, if there is one, has the block's mark.
    """
    known = conn if isinstance(conn, (psycopg.Connection, psycopg.AsyncConnection)) else None
    if not marked or (known is not None and known.info.transaction_status == TransactionStatus.IDLE):
        raise UnsupportedConnection(
            "the transaction of ctx.transaction() was ended inside its block, so the job was not completed with it: "
            "leave commit and rollback to the block"
        )
