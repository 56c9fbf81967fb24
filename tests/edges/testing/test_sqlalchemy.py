"""Code with SQLAlchemy sessions: bound to an outer transaction, shared with tasks."""

import asyncio
from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from pgqueue import App, ConfigError, Context
from pgqueue.testing import Drained, context, using
from tests.conftest import scalar
from tests.edges.testing.looks import LEFT
from tests.harness import Conn


@pytest.fixture
def outer(dsn: str, conn: Conn) -> Iterator[Connection]:
    """A SQLAlchemy connection in a transaction that is rolled back."""
    engine = create_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)
    with engine.connect() as outer:
        transaction = outer.begin()
        outer.execute(text("create table orders (id int)"))
        yield outer
        transaction.rollback()
    engine.dispose()
    assert scalar(conn, LEFT) == 0
    assert scalar(conn, "select to_regclass('public.orders')") is None


def test_sessions_bound_to_an_outer_transaction(outer: Connection, app: App) -> None:
    maker = sessionmaker(outer, join_transaction_mode="create_savepoint")

    @app.task(max_attempts=1)
    def count(fail: bool) -> int:
        with maker() as session:
            session.execute(text("insert into orders values (1)"))
            session.commit()
            session.execute(text("insert into orders select 1 / :n"), {"n": int(not fail)})
            return int(session.scalar(text("select count(*) from orders")) or 0)  # and leaves without a commit

    with using(app, outer) as jobs, maker() as session:
        good = count.using(session).enqueue(fail=False)
        session.commit()
        count.using(session).enqueue(fail=True)
        session.rollback()
        assert jobs.assert_enqueued(count.name, count=1).id == good.id
        assert jobs.drain() == Drained(succeeded=1)
        assert app.get(good.id).result == 2
        count.enqueue(fail=True)
        assert jobs.drain() == Drained(failed=1)
        assert session.scalar(text("select count(*) from orders")) == 2  # each has committed its own


def test_a_session_shared_with_tasks_may_stay_open(outer: Connection, app: App) -> None:
    registry = scoped_session(sessionmaker(outer, join_transaction_mode="create_savepoint"))

    @app.task
    def add(n: int, fail: bool = False) -> None:
        registry.execute(text("insert into orders values (:n)"), {"n": n})
        if n % 2:
            registry.commit()
        if fail:
            registry.execute(text("select 1 / 0"))

    with using(app, outer) as jobs:
        for n in range(4):
            add.using(registry).enqueue(n)
        registry.commit()
        registry.execute(text("insert into orders values (9)"))  # its savepoint is older than that of the jobs
        assert jobs.drain(raise_errors=True).succeeded == 4
        registry.commit()
        assert registry.scalar(text("select count(*) from orders")) == 5
        add.enqueue(1, fail=True)
        with pytest.raises(ConfigError, match="commit or close it before jobs are run"):
            jobs.drain()
        jobs.conn.rollback()
    registry.get_bind().invalidate()
    registry.remove()


def test_async_sessions_bound_to_an_outer_transaction(dsn: str, app: App, conn: Conn) -> None:
    async def check() -> None:
        engine = create_async_engine("postgresql+psycopg://", connect_args=conninfo_to_dict(dsn), poolclass=NullPool)
        async with engine.connect() as outer:
            transaction = await outer.begin()
            maker = {"bind": outer, "join_transaction_mode": "create_savepoint"}

            @app.task
            async def follow(n: int) -> None:
                async with AsyncSession(**maker) as session, session.begin():
                    await session.execute(text("select 1"))
                    if n:
                        await follow.using(session).aenqueue(n - 1)

            @app.task
            def sync() -> None:
                follow.enqueue(0)

            with using(app, outer) as jobs:
                async with AsyncSession(**maker) as session:
                    await follow.using(session).aenqueue(2)
                    await session.commit()
                    await follow.using(session).aenqueue(9)
                    await session.rollback()
                await sync.aenqueue()
                assert await jobs.adrain(raise_errors=True) == Drained(succeeded=5)
            await transaction.rollback()
        await engine.dispose()

    asyncio.run(check())
    assert scalar(conn, LEFT) == 0


@pytest.mark.parametrize("fail", [False, True], ids=["good", "bad"])
def test_a_session_completes_its_job_in_the_test_s_transaction(outer: Connection, app: App, fail: bool) -> None:
    maker = sessionmaker(outer, join_transaction_mode="create_savepoint")

    @app.task(max_attempts=1)
    def pay(ctx: Context) -> None:
        with maker() as session, ctx.transaction(session, result=7):
            session.execute(text("insert into orders values (1)"))
            if fail:
                raise ConnectionError

    with using(app, outer) as jobs, maker() as session:
        job = pay.enqueue()
        assert jobs.drain() == (Drained(failed=1) if fail else Drained(succeeded=1))
        assert app.get(job.id).result == (None if fail else 7)
        assert session.scalar(text("select count(*) from orders")) == int(not fail)


def test_a_context_of_a_unit_test_commits_the_session_that_it_is_given(outer: Connection, app: App) -> None:
    maker = sessionmaker(outer, join_transaction_mode="create_savepoint")

    @app.task
    def pay(ctx: Context) -> None:
        with maker() as session, ctx.transaction(session, result=7):
            session.execute(text("insert into orders values (1)"))

    ctx = context(pay)
    pay(ctx)
    assert (ctx.completed, ctx.result) == (True, 7)
    assert outer.scalar(text("select count(*) from orders")) == 1
