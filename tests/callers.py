"""Callers: connections of every kind that pgqueue can borrow, with one face for sync and async."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
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
                 "AsyncSession on asyncpg", "run_sync", "run_sync on asyncpg"]  # fmt: skip
AT_ONCE = ["own", "own async", "psycopg autocommit", "psycopg async autocommit", "sqlalchemy autocommit",
           "django autocommit", "asyncpg autocommit"]  # fmt: skip


@dataclass
class Caller:
    """A caller with a connection of some kind, given as `conn`. Its methods are the same for sync and async."""

    conn: Any
    is_async: bool

    async def execute(self, statement: str) -> Any:
        """Run a statement on the connection; return the value that a select gives."""
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
        """Commit the transaction of the caller."""
        await now(self.conn.execute("commit; begin") if self.is_asyncpg else self.conn.commit())

    async def rollback(self) -> None:
        """Roll back the transaction of the caller."""
        await now(self.conn.execute("rollback; begin") if self.is_asyncpg else self.conn.rollback())

    @property
    def is_asyncpg(self) -> bool:
        return isinstance(self.conn, (asyncpg.Connection, PoolConnectionProxy))

    @property
    def is_django(self) -> bool:
        return isinstance(self.conn, BaseDatabaseWrapper)

    async def enqueue(self, target: Enqueuer[Any, Any] | Client, *args: Any, **kwargs: Any) -> Job:
        """Enqueue with the sync or the async verb, as the connection needs."""
        return await now((target.aenqueue if self.is_async else target.enqueue)(*args, **kwargs))  # type: ignore[no-any-return]

    async def enqueue_many(self, target: Enqueuer[Any, Any], calls: list[dict[str, Any]]) -> list[int]:
        """Enqueue many with the sync or the async verb, as the connection needs."""
        return await now((target.aenqueue_many if self.is_async else target.enqueue_many)(calls))  # type: ignore[no-any-return]


@dataclass
class InRunSync(Caller):
    """Sync code that an AsyncSession runs. Its sync session is on an async driver."""

    session: AsyncSession

    async def execute(self, statement: str) -> Any:
        result = await self.session.execute(text(statement))
        return result.fetchone()[0] if statement.startswith("select") else None

    async def commit(self) -> None:
        await self.session.commit()

    async def rollback(self) -> None:
        await self.session.rollback()

    async def enqueue(self, target: Enqueuer[Any, Any] | Client, *args: Any, **kwargs: Any) -> Job:
        return await self.session.run_sync(lambda _: target.enqueue(*args, **kwargs))

    async def enqueue_many(self, target: Enqueuer[Any, Any], calls: list[dict[str, Any]]) -> list[int]:
        return await self.session.run_sync(lambda _: target.enqueue_many(calls))


async def now(value: Any) -> Any:
    """Return the value, awaited if it is awaitable."""
    return await value if inspect.isawaitable(value) else value


def for_asyncpg(dsn: str) -> dict[str, Any]:
    """Return the arguments of asyncpg's connect() that lead to the same database."""
    names = {"dbname": "database", "user": "user", "password": "password", "host": "host", "port": "port"}
    return {names[name]: value for name, value in conninfo_to_dict(dsn).items() if name in names}


def caller_on(kind: str, dsn: str) -> AbstractAsyncContextManager[Caller]:
    """Open a connection of that kind; at the end, close it without a commit."""
    autocommit = kind.endswith("autocommit")
    if kind.startswith("own"):
        return nullcontext(Caller(OWN_CONNECTION, "async" in kind))
    if "django" in kind:
        return _on_django(dsn, autocommit)
    if kind.startswith("asyncpg"):
        return _on_asyncpg(kind, dsn, autocommit)
    if kind.startswith("psycopg async"):
        return _on_async_psycopg(kind, dsn, autocommit)
    if kind.startswith("psycopg"):
        return _on_psycopg(kind, dsn, autocommit)
    if "async" in kind.lower() or kind == "run_sync":
        return _on_async_sqlalchemy(kind, dsn)
    return _on_sqlalchemy(kind, dsn, autocommit)


@asynccontextmanager
async def _on_django(dsn: str, autocommit: bool) -> AsyncIterator[Caller]:
    with pytest.MonkeyPatch.context() as patch, django_on(dsn) as wrapper:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # these tests run in an event loop
        wrapper.set_autocommit(autocommit)
        yield Caller(wrapper, False)


@asynccontextmanager
async def _on_asyncpg(kind: str, dsn: str, autocommit: bool) -> AsyncIterator[Caller]:
    async with _asyncpg_connection(kind, dsn) as conn:
        if not autocommit:
            await conn.execute("begin")
        yield Caller(conn, True)
        await conn.execute("rollback")


@asynccontextmanager
async def _asyncpg_connection(kind: str, dsn: str) -> AsyncIterator[Any]:
    if "pooled" in kind:
        async with asyncpg.create_pool(**for_asyncpg(dsn), min_size=1) as pool, pool.acquire() as pooled:
            yield pooled
    else:
        conn = await asyncpg.connect(**for_asyncpg(dsn))
        try:
            yield conn
        finally:
            await conn.close()


@asynccontextmanager
async def _on_async_psycopg(kind: str, dsn: str, autocommit: bool) -> AsyncIterator[Caller]:
    if kind.endswith("pooled"):
        async with AsyncConnectionPool(dsn, min_size=1, open=False) as pool, pool.connection() as pooled:
            yield Caller(pooled, True)
            await pooled.rollback()
    elif kind.endswith("pipeline"):
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            async with conn.pipeline():
                yield Caller(conn, True)
            await conn.rollback()
    else:
        conn = await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit)
        yield Caller(conn, True)
        await conn.close()


@asynccontextmanager
async def _on_psycopg(kind: str, dsn: str, autocommit: bool) -> AsyncIterator[Caller]:
    if kind.endswith("pooled"):
        with ConnectionPool(dsn, min_size=1, open=True) as pool, pool.connection() as pooled:
            yield Caller(pooled, False)
            pooled.rollback()
    elif kind.endswith("pipeline"):
        with psycopg.connect(dsn) as conn:
            with conn.pipeline():
                yield Caller(conn, False)
            conn.rollback()
    else:
        conn = psycopg.connect(dsn, autocommit=autocommit)
        yield Caller(conn, False)
        conn.close()


@asynccontextmanager
async def _on_async_sqlalchemy(kind: str, dsn: str) -> AsyncIterator[Caller]:
    on_asyncpg = kind.endswith("asyncpg")
    engine = create_async_engine(
        "postgresql+asyncpg://" if on_asyncpg else "postgresql+psycopg://",
        connect_args=for_asyncpg(dsn) if on_asyncpg else conninfo_to_dict(dsn),
        poolclass=NullPool,
    )
    if "AsyncConnection" in kind:
        async with engine.connect() as conn:
            yield Caller(conn, True)
    elif kind.startswith("run_sync"):
        async with AsyncSession(engine) as session:
            yield InRunSync(session.sync_session, False, session)
    elif kind.startswith("AsyncSession"):
        async with AsyncSession(engine) as session:
            yield Caller(session, True)
    else:
        registry = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        yield Caller(registry, True)
        await registry.remove()
    await engine.dispose()


@asynccontextmanager
async def _on_sqlalchemy(kind: str, dsn: str, autocommit: bool) -> AsyncIterator[Caller]:
    engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)
    if kind == "sqlalchemy Session":
        with Session(engine) as session:
            yield Caller(session, False)
    elif kind == "scoped_session":
        registry = scoped_session(sessionmaker(engine))
        yield Caller(registry, False)
        registry.remove()
    else:
        isolation: Literal["AUTOCOMMIT", "READ COMMITTED"] = "AUTOCOMMIT" if autocommit else "READ COMMITTED"
        with engine.execution_options(isolation_level=isolation).connect() as conn:
            yield Caller(conn, False)
    engine.dispose()


def on(kind: str, dsn: str, app: App, body: Callable[[Caller], Awaitable[None]]) -> None:
    """Run `body` with a caller on a connection of that kind."""

    async def run() -> None:
        try:
            async with caller_on(kind, dsn) as caller:
                await body(caller)
        finally:
            await app.aclose()

    asyncio.run(run())
