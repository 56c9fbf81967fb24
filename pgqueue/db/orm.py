"""The transaction of a task's own connection: a SQLAlchemy session or connection, Django's, or one of psycopg."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import psycopg

from pgqueue.db.borrow import borrow, borrow_async
from pgqueue.db.connection import AnyAsyncConnection, AnyConnection, autocommits
from pgqueue.db.drivers import in_django, is_django, is_of
from pgqueue.db.lent import check_statement
from pgqueue.errors import UnsupportedConnection

# Writes what the ORM keeps back, and returns the connection on which the transaction is now.
Current: TypeAlias = Callable[[], AnyConnection]
CurrentAsync: TypeAlias = Callable[[], Awaitable[AnyAsyncConnection]]
_ASYNC = ("AsyncConnection", "AsyncSession", "async_scoped_session")


def django_connection(alias: str) -> Any:
    """Return Django's connection of this alias, for this thread. Raises UnsupportedConnection."""
    if "django.db" not in sys.modules:
        raise UnsupportedConnection(
            f"ctx.transaction(using={alias!r}) names a database of Django's, which this process has not set up: call "
            "django.setup() before the worker starts, or give a session: ctx.transaction(session)"
        )
    return sys.modules["django.db"].connections[alias]


def is_async(given: object) -> bool:
    """Whether `given` is used with `await`. Raises UnsupportedConnection for what has no transaction of its own."""
    if isinstance(given, psycopg.AsyncConnection) or any(is_of(given, "sqlalchemy.ext.asyncio", n) for n in _ASYNC):
        return True
    sqlalchemy = (("sqlalchemy", "Connection"), ("sqlalchemy.orm", "Session"), ("sqlalchemy.orm", "scoped_session"))
    if isinstance(given, psycopg.Connection) or is_django(given) or any(is_of(given, *kind) for kind in sqlalchemy):
        return False
    kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    raise UnsupportedConnection(
        f"ctx.transaction() cannot commit on a {kind}: give a SQLAlchemy session or connection, one of psycopg, or "
        "using='…' for a database of Django's; a result is given as result=…"
    )


@contextmanager
def transaction_on(given: Any, committed: Callable[[], None], *, outer: bool = False) -> Iterator[Current]:
    """Begin the transaction of `given`, or go on with the one that it has begun; commit it at the end, and call
    `committed` then. An error rolls it back.

    What comes out of it flushes the ORM, and returns the connection as it is then: the task may have ended the
    transaction, and another user may have the connection by now. SQL that ends the transaction is refused meanwhile.
    `outer`: another transaction may be around this one, as in a test. Raises UnsupportedConnection before anything is
    written where the end of the block would commit nothing, or each statement commits by itself.
    """
    if is_django(given):
        with _atomic(given, committed, outer) as current:
            yield current
        return
    owner = given() if is_of(given, "sqlalchemy.orm", "scoped_session") else given
    _check_owner(owner, outer)
    try:
        _check_commits(borrow(owner))
        with _guarded(owner.connection() if _is_orm(owner) else owner):
            yield partial(_flushed, owner)
    except BaseException:
        owner.rollback()
        raise
    owner.commit()
    committed()


@asynccontextmanager
async def transaction_on_async(
    given: Any, committed: Callable[[], None], *, outer: bool = False
) -> AsyncIterator[CurrentAsync]:
    """The async twin of `transaction_on`."""
    owner = given() if is_of(given, "sqlalchemy.ext.asyncio", "async_scoped_session") else given
    is_orm = is_of(owner, "sqlalchemy.ext.asyncio", "AsyncSession")
    _check_owner(owner.sync_session if is_orm else owner, outer)
    try:
        _check_commits(await borrow_async(owner))
        inner = await owner.connection() if is_orm else owner
        with _guarded(getattr(inner, "sync_connection", inner)):
            yield partial(_flushed_async, owner, is_orm)
    except BaseException:
        await owner.rollback()
        raise
    await owner.commit()
    committed()


def _flushed(owner: Any) -> AnyConnection:
    if _is_orm(owner):
        owner.flush()  # before the job's row is locked: who has a row of the task's may want that of the job
    return borrow(owner)


async def _flushed_async(owner: Any, is_orm: bool) -> AnyAsyncConnection:
    if is_orm:
        await owner.flush()
    return await borrow_async(owner)


@contextmanager
def _atomic(conn: Any, committed: Callable[[], None], outer: bool) -> Iterator[Current]:
    in_django(conn)
    if not outer and not conn.get_autocommit():
        raise UnsupportedConnection(
            f"ctx.transaction(using={conn.alias!r}) cannot be used inside transaction.atomic(): the job would end "
            "before that commits; put the one block in the place of the other"
        )
    atomic = sys.modules["django.db.transaction"].atomic
    with atomic(using=conn.alias), conn.execute_wrapper(_check_execution):
        if not outer:
            conn.on_commit(committed)  # first: a later hook may raise, and the job has ended all the same
        yield partial(_unmarred, conn)
    if outer:
        committed()


def _unmarred(conn: Any) -> AnyConnection:
    if conn.needs_rollback:
        raise UnsupportedConnection(
            f"the transaction of ctx.transaction(using={conn.alias!r}) is to be rolled back, so the job was not "
            "completed with it: an error was caught that had failed it, or set_rollback(True) was called"
        )
    return borrow(conn)


def _check_execution(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    check_statement(sql)
    return execute(sql, params, many, context)


def _check_owner(owner: Any, outer: bool) -> None:
    """Refuse a session whose commit leaves it to somebody else to commit."""
    if not outer and _is_orm(owner) and is_of(owner.get_bind(), "sqlalchemy", "Connection"):
        raise UnsupportedConnection(
            "ctx.transaction(session) cannot commit on a session that is bound to a connection, whose transaction may "
            "be another's: bind it to an engine, or give the connection itself"
        )


def _check_commits(conn: AnyConnection | AnyAsyncConnection) -> None:
    if autocommits(conn):
        raise UnsupportedConnection(
            "ctx.transaction() cannot use a connection in autocommit, where each statement commits by itself: give one "
            "without"
        )


def _is_orm(owner: object) -> bool:
    return is_of(owner, "sqlalchemy.orm", "Session")


@contextmanager
def _guarded(conn: Any) -> Iterator[None]:
    """Refuse what would end the transaction of a SQLAlchemy connection."""
    if not is_of(conn, "sqlalchemy", "Connection"):
        yield
        return
    event = sys.modules["sqlalchemy.event"]
    listeners = (("before_cursor_execute", _check_cursor), ("commit", _refuse_commit))
    for name, listener in listeners:
        event.listen(conn, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(conn, name, listener)


def _check_cursor(_conn: Any, _cursor: Any, statement: Any, *_: Any) -> None:
    check_statement(statement)


def _refuse_commit(_conn: Any) -> None:
    raise UnsupportedConnection("commit() cannot be called inside ctx.transaction(): the block commits at its end")
