"""Connections of every kind that can be lent to pgqueue, and what is the same about them."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg
import psycopg
import pytest
from asyncpg.pool import PoolConnectionProxy
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgqueue import App, Client, Enqueuer, Job
from pgqueue.client.steps import OWN_CONNECTION
from tests.django_site import django_on

TRANSACTIONAL = ["psycopg", "psycopg async", "psycopg pipeline", "psycopg pooled", "psycopg async pooled",
                 "psycopg async pipeline", "sqlalchemy Connection", "sqlalchemy Session", "scoped_session",
                 "sqlalchemy AsyncConnection", "AsyncSession", "async_scoped_session", "django", "asyncpg pooled",
                 "AsyncSession on asyncpg"]  # fmt: skip
AT_ONCE = ["own", "own async", "psycopg autocommit", "psycopg async autocommit", "sqlalchemy autocommit",
           "django autocommit", "asyncpg autocommit"]  # fmt: skip


@dataclass
class Lent:
    """A connection of some kind. `conn` is what the caller hands over; the rest hides sync from async."""

    conn: Any
    is_async: bool

    async def execute(self, statement: str) -> Any:
        """Run a statement of the caller's own; return the one value that it gives, if any."""
        if self.is_asyncpg:
            return await self.conn.fetchval(statement)
        if self.is_django:
            with self.conn.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone()[0] if cursor.description else None
        plain = isinstance(self.conn, (psycopg.Connection, psycopg.AsyncConnection))
        result = await now(self.conn.execute(statement if plain else text(statement)))
        return (await now(result.fetchone()))[0] if statement.startswith("select") else None

    async def commit(self) -> None:
        """Commit as the caller."""
        await now(self.conn.execute("commit; begin") if self.is_asyncpg else self.conn.commit())

    async def rollback(self) -> None:
        """Roll back as the caller."""
        await now(self.conn.execute("rollback; begin") if self.is_asyncpg else self.conn.rollback())

    @property
    def is_asyncpg(self) -> bool:
        return isinstance(self.conn, (asyncpg.Connection, PoolConnectionProxy))

    @property
    def is_django(self) -> bool:
        return isinstance(self.conn, BaseDatabaseWrapper)

    async def enqueue(self, target: Enqueuer[Any, Any] | Client, *args: Any, **kwargs: Any) -> Job:
        """Enqueue with the verb that goes with the connection."""
        return await now((target.aenqueue if self.is_async else target.enqueue)(*args, **kwargs))  # type: ignore[no-any-return]

    async def enqueue_many(self, target: Enqueuer[Any, Any], calls: list[dict[str, Any]]) -> list[int]:
        """Enqueue many with the verb that goes with the connection."""
        return await now((target.aenqueue_many if self.is_async else target.enqueue_many)(calls))  # type: ignore[no-any-return]


async def now(value: Any) -> Any:
    """The value, awaited if it wants to be."""
    return await value if inspect.isawaitable(value) else value


def for_asyncpg(dsn: str) -> dict[str, Any]:
    """The arguments of asyncpg's connect() that lead to the same database."""
    names = {"dbname": "database", "user": "user", "password": "password", "host": "host", "port": "port"}
    return {names[name]: value for name, value in conninfo_to_dict(dsn).items() if name in names}


@asynccontextmanager
async def lend_asyncpg(kind: str, dsn: str) -> AsyncIterator[Any]:
    """Open an asyncpg connection, or have a pool lend one."""
    if "pooled" in kind:
        async with asyncpg.create_pool(**for_asyncpg(dsn), min_size=1) as pool, pool.acquire() as lent:
            yield lent
    else:
        own = await asyncpg.connect(**for_asyncpg(dsn))
        try:
            yield own
        finally:
            await own.close()


@asynccontextmanager
async def lend(kind: str, dsn: str) -> AsyncIterator[Lent]:
    """Open a connection of that kind, and close it in the end without a commit."""
    autocommit = kind.endswith("autocommit")
    if kind.startswith("own"):
        yield Lent(OWN_CONNECTION, "async" in kind)
    elif "django" in kind:
        with pytest.MonkeyPatch.context() as patch, django_on(dsn) as wrapper:
            patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # these tests run in an event loop
            wrapper.set_autocommit(autocommit)
            yield Lent(wrapper, False)
    elif kind.startswith("asyncpg"):
        async with lend_asyncpg(kind, dsn) as pg:
            if not autocommit:
                await pg.execute("begin")
            yield Lent(pg, True)
            await pg.execute("rollback")
    elif kind == "psycopg pooled":
        with ConnectionPool(dsn, min_size=1, open=True) as pool, pool.connection() as sync:
            yield Lent(sync, False)
            sync.rollback()
    elif kind == "psycopg async pooled":
        async with AsyncConnectionPool(dsn, min_size=1, open=False) as apool, apool.connection() as aconn:
            yield Lent(aconn, True)
            await aconn.rollback()
    elif kind == "psycopg async pipeline":
        async with await psycopg.AsyncConnection.connect(dsn) as aconn:
            async with aconn.pipeline():
                yield Lent(aconn, True)
            await aconn.rollback()
    elif kind.startswith("psycopg async"):
        conn = await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit)
        yield Lent(conn, True)
        await conn.close()
    elif kind == "psycopg pipeline":
        with psycopg.connect(dsn) as sync:
            with sync.pipeline():
                yield Lent(sync, False)
            sync.rollback()
    elif kind.startswith("psycopg"):
        sync = psycopg.connect(dsn, autocommit=autocommit)
        yield Lent(sync, False)
        sync.close()
    elif "sync" in kind.lower():
        on_asyncpg = kind.endswith("asyncpg")
        async_engine = create_async_engine(
            "postgresql+asyncpg://" if on_asyncpg else "postgresql+psycopg://",
            connect_args=for_asyncpg(dsn) if on_asyncpg else conninfo_to_dict(dsn),
            poolclass=NullPool,
        )
        if "AsyncConnection" in kind:
            async with async_engine.connect() as async_conn:
                yield Lent(async_conn, True)
        elif kind.startswith("AsyncSession"):
            async with AsyncSession(async_engine) as async_session:
                yield Lent(async_session, True)
        else:
            async_registry = async_scoped_session(async_sessionmaker(async_engine), asyncio.current_task)
            yield Lent(async_registry, True)
            await async_registry.remove()
        await async_engine.dispose()
    else:
        engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)
        if kind == "sqlalchemy Session":
            with Session(engine) as session:
                yield Lent(session, False)
        elif kind == "scoped_session":
            registry = scoped_session(sessionmaker(engine))
            yield Lent(registry, False)
            registry.remove()
        else:
            isolation: Literal["AUTOCOMMIT", "READ COMMITTED"] = "AUTOCOMMIT" if autocommit else "READ COMMITTED"
            with engine.execution_options(isolation_level=isolation).connect() as sa_conn:
                yield Lent(sa_conn, False)
        engine.dispose()


def on(kind: str, dsn: str, app: App, body: Callable[[Lent], Awaitable[None]]) -> None:
    """Run `body` with a connection of that kind."""

    async def run() -> None:
        try:
            async with lend(kind, dsn) as lent:
                await body(lent)
        finally:
            await app.aclose()

    asyncio.run(run())
