"""Borrowed connections: the driver's connection inside the object that `using(conn)` receives."""

from typing import Any

import psycopg

from pgqueue.db.asyncpg import AsyncpgConnection
from pgqueue.db.connection import AnyAsyncConnection, Connection
from pgqueue.db.drivers import in_django, is_asyncpg, is_django, is_of
from pgqueue.errors import UnsupportedConnection


def borrow(conn: object) -> Connection:
    """Return the psycopg connection inside `conn`, for statements in the caller's transaction.

    `conn` is a psycopg Connection, a SQLAlchemy Connection or Session on the psycopg driver, or Django's connection.
    It is never committed and never closed.
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
    """The async twin of `borrow`, for AsyncConnection and AsyncSession. The driver may be asyncpg, too."""
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
        return AsyncpgConnection(conn)
    raise _unsupported(conn, asynchronous=True)


async def _inside(conn: Any) -> object:
    """Return the driver's connection inside an AsyncConnection, in a transaction that SQLAlchemy will commit."""
    _autobegin(conn.sync_connection)
    driver: object = (await conn.get_raw_connection()).driver_connection
    if is_asyncpg(driver) and not driver.is_in_transaction():  # type: ignore[attr-defined]
        # psycopg begins with the first statement, also with ours. On asyncpg SQLAlchemy begins, with its own statement.
        await conn.exec_driver_sql("select 1")
    return driver


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
    if kind.endswith(("Engine", "Pool", "Cursor")):
        return " Give the connection or session whose transaction the job is to belong to."
    if asynchronous and is_django(conn):
        return " Django's transactions are sync: call enqueue() in a function that sync_to_async runs."
    if asynchronous and (isinstance(conn, psycopg.Connection) or kind.startswith("sqlalchemy")):
        return " A sync connection goes with enqueue(), get() and so on, without the a."
    if not asynchronous and ("sync" in kind.lower() or is_asyncpg(conn)):
        return " An async connection goes with aenqueue(), aget() and so on."
    return ""
