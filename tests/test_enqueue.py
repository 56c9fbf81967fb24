"""Enqueueing on every kind of connection: a job exists if and only if the caller's transaction committed."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg
import psycopg
import pytest
from asyncpg.pool import PoolConnectionProxy
from conftest import scalar
from django.db.backends.base.base import BaseDatabaseWrapper
from django_site import django_on
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgqueue import App, Client, Enqueuer, Job, Task
from pgqueue.client.session import Own

Conn = psycopg.Connection[Any]
TRANSACTIONAL = ["psycopg", "psycopg async", "psycopg pipeline", "psycopg pooled", "psycopg async pooled",
                 "psycopg async pipeline", "sqlalchemy Connection", "sqlalchemy Session", "scoped_session",
                 "sqlalchemy AsyncConnection", "AsyncSession", "async_scoped_session", "django", "asyncpg pooled",
                 "AsyncSession on asyncpg"]  # fmt: skip
AT_ONCE = ["own", "own async", "psycopg autocommit", "psycopg async autocommit", "sqlalchemy autocommit",
           "django autocommit", "asyncpg autocommit"]  # fmt: skip
JOBS = "select count(*) from pgqueue.job"
LOG = "select count(*) from pgqueue.transition"
ORDERS = "select count(*) from public.orders"


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
        yield Lent(Own.CONNECTION, "async" in kind)
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


@pytest.fixture
def task(app: App, conn: Conn) -> Task[..., None]:
    """A task, and a business table beside it."""
    conn.execute("create table public.orders (id int)")

    @app.task(name="ship")
    def ship(n: int = 0) -> None: ...

    return ship


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_rollback_leaves_no_job_and_no_transition(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        await lent.execute("insert into public.orders values (1)")
        await lent.enqueue(task.using(lent.conn), 1)
        await lent.enqueue_many(task.using(lent.conn), [{"n": 2}, {"n": 3}])
        await lent.rollback()
        await lent.commit()
        assert [scalar(conn, query) for query in (JOBS, LOG, ORDERS)] == [0, 0, 0]

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_commit_makes_the_job_and_the_business_row_visible_together(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        await lent.execute("insert into public.orders values (1)")
        job = await lent.enqueue(task.using(lent.conn), 1)
        assert [scalar(conn, query) for query in (JOBS, LOG, ORDERS)] == [0, 0, 0]
        await lent.commit()
        assert [scalar(conn, query) for query in (JOBS, LOG, ORDERS)] == [1, 1, 1]
        assert scalar(conn, "select id from pgqueue.job where args = '{\"n\": 1}' and state = 'pending'") == job.id

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_a_job_enqueued_before_any_other_statement_is_committed_with_the_rest(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        await lent.enqueue(task.using(lent.conn), 1)
        await lent.commit()
        assert scalar(conn, JOBS) == 1

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_the_connection_stays_open_and_uncommitted(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        await lent.enqueue(task.using(lent.conn))
        await lent.enqueue_many(task.using(lent.conn), [{}, {}])
        assert await lent.execute(JOBS) == 3
        assert scalar(conn, JOBS) == 0
        await lent.commit()
        await lent.enqueue(task.using(lent.conn))
        await lent.rollback()
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (3, 3)

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", TRANSACTIONAL)
def test_rolling_back_to_a_savepoint_removes_the_job(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        await lent.enqueue(task.using(lent.conn), 1)
        await lent.execute("savepoint s")
        await lent.enqueue(task.using(lent.conn), 2)
        await lent.enqueue_many(task.using(lent.conn), [{"n": 3}])
        await lent.execute("rollback to savepoint s")
        await lent.commit()
        assert scalar(conn, "select array_agg(args->>'n') from pgqueue.job") == ["1"]
        assert scalar(conn, LOG) == 1

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", AT_ONCE)
def test_without_a_transaction_a_job_is_there_at_once(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        await lent.enqueue(task.using(lent.conn))
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (1, 1)
        await lent.enqueue_many(task.using(lent.conn), [{}, {}])
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (3, 3)
        await lent.enqueue(app.using(lent.conn), "elsewhere", {"x": [1]})
        assert scalar(conn, "select args from pgqueue.job where task = 'elsewhere'") == {"x": [1]}

    on(kind, dsn, app, body)


@pytest.mark.parametrize("kind", [*AT_ONCE, "psycopg", "AsyncSession"])
def test_many_jobs_are_all_or_nothing_when_a_later_chunk_fails(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    conn.execute("alter table pgqueue.job_live add check (args->>'n' <> '5500')")

    async def body(lent: Lent) -> None:
        with pytest.raises((psycopg.errors.CheckViolation, asyncpg.CheckViolationError)):
            await lent.enqueue_many(task.using(lent.conn), [{"n": n} for n in range(6000)])
        assert (scalar(conn, JOBS), scalar(conn, LOG)) == (0, 0)

    on(kind, dsn, app, body)


def test_many_jobs_are_all_or_nothing_in_a_pipeline_on_autocommit(dsn: str, conn: Conn, task: Task[..., None]) -> None:
    conn.execute("alter table pgqueue.job_live add check (args->>'n' <> '5500')")

    def in_a_pipeline(lent: Conn) -> None:
        with lent.pipeline():
            lent.execute("select 1")
            task.using(lent).enqueue_many({"n": n} for n in range(6000))

    with psycopg.connect(dsn, autocommit=True) as lent, pytest.raises(psycopg.errors.CheckViolation):
        in_a_pipeline(lent)
    assert (scalar(conn, JOBS), scalar(conn, LOG)) == (0, 0)


@pytest.mark.parametrize("kind", ["own", "own async", "psycopg", "psycopg pipeline", "AsyncSession"])
def test_ids_come_back_in_the_order_of_the_calls(
    kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]
) -> None:
    async def body(lent: Lent) -> None:
        ids = await lent.enqueue_many(task.using(lent.conn), [{"n": n} for n in range(12_000)])
        if lent.conn is not Own.CONNECTION:
            await lent.commit()
        rows = conn.execute("select id, (args->>'n')::int from pgqueue.job order by 2").fetchall()
        assert rows == list(zip(ids, range(12_000), strict=True))
        assert scalar(conn, LOG) == 12_000

    on(kind, dsn, app, body)


def test_no_calls_at_all_are_no_jobs(conn: Conn, task: Task[..., None]) -> None:
    assert task.enqueue_many([]) == []
    assert scalar(conn, JOBS) == 0


@pytest.mark.parametrize("kind", ["own", "psycopg", "AsyncSession"])
def test_options_land_in_the_row(kind: str, dsn: str, app: App, conn: Conn, task: Task[..., None]) -> None:
    at = datetime(2031, 5, 1, 12, 0, 0, 250_000, UTC)
    options: dict[str, Any] = {"run_at": at, "priority": -7, "queue": "bulk:eu", "max_attempts": 3, "tags": ["a", "b"]}

    async def body(lent: Lent) -> None:
        jobs = [
            await lent.enqueue(task.using(lent.conn, **options)),
            await lent.enqueue(app.using(lent.conn, **options), "elsewhere"),
        ]
        await lent.enqueue_many(task.using(lent.conn, **options), [{}])
        if lent.conn is not Own.CONNECTION:
            await lent.commit()
        rows = conn.execute("select run_at, priority, queue, max_attempts, tags, phase from pgqueue.job").fetchall()
        assert rows == [(at, -7, "bulk:eu", 3, ["a", "b"], "scheduled")] * 3
        assert [(j.run_at, j.priority, j.queue, j.max_attempts, j.tags, j.phase) for j in jobs] == [
            (at, -7, "bulk:eu", 3, ("a", "b"), "scheduled")
        ] * 2

    on(kind, dsn, app, body)
