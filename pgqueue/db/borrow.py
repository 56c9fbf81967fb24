"""Borrowed connections: the driver's connection inside the object that `using(conn)` receives."""

from typing import Any

import psycopg

from pgqueue.db.asyncpg import AsyncpgConnection
from pgqueue.db.connection import AnyAsyncConnection, AnyConnection, AwaitedConnection, Connection, run, run_async
from pgqueue.db.drivers import in_django, is_asyncpg, is_django, is_of
from pgqueue.errors import UnsupportedConnection
from pgqueue.queries.base import no_notify


def borrow(conn: object) -> AnyConnection:
    """Return the psycopg connection inside `conn`, for statements in the caller's transaction.

    `conn` is a psycopg Connection, a SQLAlchemy Connection or Session on the psycopg driver, or Django's connection.
    In SQLAlchemy's `run_sync` and the events of an AsyncSession a sync Connection or Session is on an async driver.
    It is never committed and never closed.
    """
    if isinstance(conn, psycopg.Connection):
        return conn if conn._tpc is None else _without_notify(conn)
    if is_of(conn, "sqlalchemy.orm", "scoped_session"):
        conn = conn()  # type: ignore[operator]  # a scoped_session is called for its Session
    if is_of(conn, "sqlalchemy.orm", "Session"):
        conn = conn.connection()  # type: ignore[attr-defined]
    if is_of(conn, "sqlalchemy", "Connection"):
        return _inside(conn)
    if is_django(conn):
        conn = in_django(conn)
    if isinstance(conn, psycopg.Connection):
        return conn
    raise _unsupported(conn, asynchronous=False)


def borrow_psycopg(conn: object) -> Connection:
    """Return the psycopg connection inside `conn`, as `borrow` does, but none that is on an async driver."""
    borrowed = borrow(conn)
    if isinstance(borrowed, AwaitedConnection):
        raise _unsupported(conn, asynchronous=False)
    return borrowed


async def borrow_async(conn: object) -> AnyAsyncConnection:
    """The async twin of `borrow`, for AsyncConnection and AsyncSession. The driver may be asyncpg, too."""
    if isinstance(conn, psycopg.AsyncConnection):
        return conn if conn._tpc is None else await _without_notify_async(conn)
    if is_of(conn, "sqlalchemy.ext.asyncio", "async_scoped_session"):
        conn = conn()  # type: ignore[operator]
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncSession"):
        conn = await conn.connection()  # type: ignore[attr-defined]
    if is_of(conn, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        return await _inside_async(conn)
    if is_asyncpg(conn):
        return AsyncpgConnection(conn)
    raise _unsupported(conn, asynchronous=True)


def _inside(conn: Any) -> AnyConnection:
    """Return the driver's connection inside a SQLAlchemy Connection, in a transaction that SQLAlchemy will commit."""
    _autobegin(conn)
    driver: object = conn.connection.driver_connection
    two_phase = _in_two_phase(conn)
    if isinstance(driver, psycopg.Connection):
        return _without_notify(driver) if two_phase else driver
    if not isinstance(driver, psycopg.AsyncConnection) and not is_asyncpg(driver):
        raise _unsupported(driver, asynchronous=False)
    if _to_begin(driver):
        conn.exec_driver_sql("select 1")
    awaited = AwaitedConnection(driver if isinstance(driver, psycopg.AsyncConnection) else AsyncpgConnection(driver))
    if two_phase:
        awaited.run(no_notify())
    return awaited


async def _inside_async(conn: Any) -> AnyAsyncConnection:
    """The async twin of `_inside`, for an AsyncConnection."""
    _autobegin(conn.sync_connection)
    driver: object = (await conn.get_raw_connection()).driver_connection
    if not isinstance(driver, psycopg.AsyncConnection) and not is_asyncpg(driver):
        raise _unsupported(driver, asynchronous=True)
    if _to_begin(driver):
        await conn.exec_driver_sql("select 1")
    known = driver if isinstance(driver, psycopg.AsyncConnection) else AsyncpgConnection(driver)
    return await _without_notify_async(known) if _in_two_phase(conn.sync_connection) else known


def _to_begin(driver: Any) -> bool:
    # psycopg begins with the first statement, also with ours. On asyncpg SQLAlchemy begins, with its own statement.
    return is_asyncpg(driver) and not driver.is_in_transaction()


def _in_two_phase(conn: Any) -> bool:
    return is_of(conn.get_transaction(), "sqlalchemy", "TwoPhaseTransaction")


# Postgres refuses to prepare a transaction that has notified for its first phase.
def _without_notify(conn: Connection) -> Connection:
    run(conn, no_notify())
    return conn


async def _without_notify_async(conn: AnyAsyncConnection) -> AnyAsyncConnection:
    await run_async(conn, no_notify())
    return conn


def _autobegin(conn: Any) -> None:
    # SQLAlchemy's commit() does nothing unless SQLAlchemy began the transaction; its execute() begins one like this.
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
    if kind.startswith("pgqueue."):
        block, verbs = ("ctx.transaction()", "without") if asynchronous else ("ctx.atransaction()", "with")
        return f" {block} goes with the verbs {verbs} an a; using(pgqueue.OWN_CONNECTION) stays out of it."
    if kind.endswith(("Engine", "Pool", "Cursor")):
        return " Give the connection or session whose transaction the job is to belong to."
    if asynchronous and is_django(conn):
        return " Django's transactions are sync: call enqueue() in a function that sync_to_async runs."
    if asynchronous and (isinstance(conn, psycopg.Connection) or kind.startswith("sqlalchemy")):
        return " A sync connection goes with enqueue(), get() and so on, without the a."
    if not asynchronous and ("sync" in kind.lower() or is_asyncpg(conn)):
        return " An async connection goes with aenqueue(), aget() and so on."
    return ""
