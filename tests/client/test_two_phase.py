"""Two-phase commit: Postgres refuses to prepare a transaction that has notified, so jobs in one notify no worker."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from pgqueue import App, Unique
from tests.callers import for_asyncpg
from tests.harness import WORKER, Conn, heard, insert_job

SLEEPING = (
    "insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, waiting) "
    "values (gen_random_uuid(), 'worker', 'h', 1, '0', '{default}', '{t}', 1, 60, true)"
)
BY_SQL = "select pgqueue.enqueue('t'); select pgqueue.schedule_run('s')"


@pytest.fixture
def app(app: App) -> App:
    """An app with a task."""
    app.task(name="t")(lambda: None)
    return app


@pytest.fixture
def listener(connect: Callable[..., Conn], conn: Conn) -> Iterator[Conn]:
    """A connection that hears what workers hear, while one of them sleeps."""
    conn.execute(SLEEPING)
    with connect(autocommit=True) as listener:
        listener.execute("listen pgqueue")
        yield listener


def use_verbs(app: App, conn: Any, running: int) -> None:
    """Use the verbs that notify."""
    app.using(conn).enqueue("t")
    app.using(conn).cancel(running)
    app.schedules.using(conn).create("s", "t", 60)
    app.schedules.using(conn).run("s")


async def use_async_verbs(app: App, conn: Any, running: int) -> None:
    """Use the verbs that notify."""
    await app.using(conn).aenqueue("t")
    await app.using(conn).acancel(running)
    await app.schedules.using(conn).acreate("s", "t", 60)
    await app.schedules.using(conn).arun("s")


async def on_psycopg(dsn: str, app: App, running: int) -> None:
    with psycopg.connect(dsn) as conn:
        conn.tpc_begin("x")
        use_verbs(app, conn, running)
        conn.tpc_commit()


async def on_async_psycopg(dsn: str, app: App, running: int) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await conn.tpc_begin("x")
        await use_async_verbs(app, conn, running)
        await conn.tpc_commit()


async def on_a_session(dsn: str, app: App, running: int) -> None:
    engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)
    with Session(engine, twophase=True) as session:
        use_verbs(app, session, running)
        # The session would prepare it, which the server of these tests refuses.
        session.connection().get_transaction().commit()  # type: ignore[union-attr]


async def on_sqlalchemy_async(driver: str, in_run_sync: bool, dsn: str, app: App, running: int) -> None:
    options = for_asyncpg(dsn) if driver == "asyncpg" else conninfo_to_dict(dsn)
    engine = create_async_engine(f"postgresql+{driver}://", connect_args=options, poolclass=NullPool)
    async with engine.connect() as conn:
        transaction = await conn.run_sync(Connection.begin_twophase)
        if in_run_sync:
            await conn.run_sync(partial(use_verbs, app), running)
        else:
            await use_async_verbs(app, conn, running)
        await conn.run_sync(lambda _: transaction.commit())
    await engine.dispose()


async def with_the_setting(dsn: str, app: App, running: int) -> None:
    conn = await asyncpg.connect(**for_asyncpg(dsn))
    await conn.execute("set pgqueue.notify = off; begin")
    await use_async_verbs(app, conn, running)
    await conn.execute(f"{BY_SQL}; commit")
    await conn.close()


KINDS: dict[str, Callable[[str, App, int], Any]] = {
    "psycopg": on_psycopg,
    "psycopg async": on_async_psycopg,
    "Session": on_a_session,
    "AsyncConnection": partial(on_sqlalchemy_async, "psycopg", False),
    "AsyncConnection on asyncpg": partial(on_sqlalchemy_async, "asyncpg", False),
    "run_sync": partial(on_sqlalchemy_async, "psycopg", True),
    "run_sync on asyncpg": partial(on_sqlalchemy_async, "asyncpg", True),
    "pgqueue.notify = off": with_the_setting,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_transaction_in_two_phases_notifies_no_worker(
    kind: str, dsn: str, app: App, conn: Conn, listener: Conn
) -> None:
    running = insert_job(conn, state="running", attempt=1, lease=1, worker_id=WORKER, claimed_at=datetime.now(UTC))
    asyncio.run(KINDS[kind](dsn, app, running))
    assert heard(listener, conn) == []


def test_otherwise_the_same_verbs_notify(dsn: str, app: App, conn: Conn, listener: Conn) -> None:
    use_verbs(
        app, conn, insert_job(conn, state="running", attempt=1, lease=1, worker_id=WORKER, claimed_at=datetime.now(UTC))
    )
    assert set(heard(listener, conn)) == {"default", "!cancel", "!schedule"}
    conn.execute(BY_SQL)
    assert set(heard(listener, conn)) == {"default", "!schedule"}


@pytest.mark.parametrize("options", [{"unique": Unique()}, {"idempotency_key": "k"}], ids=repr)
def test_conditions_in_two_phases(dsn: str, app: App, conn: Conn, listener: Conn, options: Any) -> None:
    with psycopg.connect(dsn) as borrowed:
        borrowed.tpc_begin("x")
        job = app.using(borrowed, **options).enqueue("t")
        assert app.using(borrowed, **options).enqueue("t").id == job.id
        borrowed.tpc_commit()
    assert heard(listener, conn) == []
