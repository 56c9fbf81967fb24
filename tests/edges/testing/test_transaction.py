"""pgqueue.testing: a test's jobs live in its transaction and leave nothing behind."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from pgqueue import App, ConfigError, UnknownJob
from pgqueue import testing as pgqueue_testing
from pgqueue.testing import Jobs, rolled_back, using
from tests.callers import for_asyncpg
from tests.conftest import scalar
from tests.edges.testing.looks import LEFT
from tests.harness import Conn


def test_own_connections_are_the_test_s_while_it_lasts(app: App, conn: Conn, jobs: Jobs) -> None:
    @app.task
    def t(n: int = 0) -> None: ...

    one = t.enqueue(1)
    app.enqueue("elsewhere", {"x": 1})
    t.enqueue_many([{"n": n} for n in range(3)])
    asyncio.run(_async_own(app, t))
    assert app.get(one.id).args == {"n": 1}
    assert app.cancel(one.id)
    assert scalar(jobs.conn, "select count(*) from pgqueue.job") == 8
    assert scalar(conn, LEFT) == 0


async def _async_own(app: App, t: Any) -> None:
    await asyncio.gather(t.aenqueue(1), t.aenqueue(2))  # one after the other, on one connection
    await t.using().aenqueue_many([{"n": 7}])
    assert len((await app.aget(1)).attempts) == 0


def test_the_app_has_its_own_connections_back_afterwards(app: App, others: Conn) -> None:
    with rolled_back(app):
        app.enqueue("t")
    app.enqueue("t")
    assert scalar(others, "select count(*) from pgqueue.job") == 1


def test_tasks_and_schedules_that_were_made_before_the_test_are_the_test_s_too(app: App, others: Conn) -> None:
    @app.task(name="double")
    def double(n: int) -> int:
        return 2 * n

    with rolled_back(app) as jobs:
        job = double.enqueue(1)
        jobs.drain()
        assert job.wait(60) == 2
        jobs.travel_to(datetime(2040, 1, 1, tzinfo=UTC))
        made = app.schedules.create("hourly", double, "0 * * * *", args={"n": 1})
        assert made.next_tick == datetime(2040, 1, 1, 1, tzinfo=UTC)
    assert app.schedules.list() == []
    with pytest.raises(UnknownJob):
        app.get(job.id)


def test_an_app_without_a_dsn_works_on_a_borrowed_connection(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUE_DSN", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    app = App()
    with psycopg.connect(dsn) as borrowed:
        with using(app, borrowed) as jobs:
            app.enqueue("t")
            assert len(jobs.enqueued("t")) == 1
        borrowed.rollback()
    with pytest.raises(ConfigError, match="PGQUEUE_DSN"):
        app.enqueue("t")


def test_a_connection_in_no_transaction_is_refused(app: App, conn: Conn) -> None:
    with pytest.raises(ConfigError, match="in no transaction"), using(app, conn):
        pass


def test_asyncpg_and_sessions_are_refused_with_what_to_give(dsn: str, app: App) -> None:
    async def check() -> None:
        import asyncpg

        borrowed = await asyncpg.connect(**for_asyncpg(dsn))
        with pytest.raises(ConfigError, match="give a psycopg one"), using(app, borrowed):
            pass
        await borrowed.close()
        with pytest.raises(ConfigError, match="give the AsyncConnection"), using(app, AsyncSession()):
            pass

    asyncio.run(check())


def test_jobs_of_others_are_not_run(app: App, others: Conn) -> None:
    ran: list[int] = []
    app.task(name="t")(lambda n: ran.append(n))
    app.using(queue="other").enqueue("t", {"n": 1})
    with rolled_back(app) as jobs:
        app.enqueue("t", {"n": 2})
        assert [job.args["n"] for job in jobs.all()] == [2]
        with pytest.raises(ConfigError, match="1 jobs wait in database"):
            jobs.drain()
        assert jobs.drain(queues=["default"]).succeeded == 1
    assert ran == [2]
    assert scalar(others, "select state from pgqueue.job") == "pending"


def test_jobs_from_before_the_fixture_in_the_same_transaction_may_run(dsn: str, app: App) -> None:
    app.task(name="t")(lambda: None)
    with psycopg.connect(dsn) as borrowed:
        app.using(borrowed).enqueue("t")
        with using(app, borrowed) as jobs:
            assert [job.task for job in jobs.enqueued()] == ["t"]
            assert jobs.drain().succeeded == 1
        borrowed.rollback()


def test_code_may_commit_and_roll_back_the_test_s_connection(app: App, conn: Conn, jobs: Jobs) -> None:
    def enqueue_two(borrowed: Any) -> None:
        app.using(borrowed).enqueue("kept")
        borrowed.commit()
        app.using(borrowed).enqueue("dropped")
        borrowed.rollback()
        with borrowed:  # commits, and closes nothing
            app.using(borrowed).enqueue("kept too")

    enqueue_two(jobs.conn)
    assert [job.task for job in jobs.enqueued()] == ["kept", "kept too"]
    with pytest.raises(psycopg.errors.DivisionByZero):
        jobs.conn.execute("select 1 / 0")
    jobs.conn.commit()  # of an aborted transaction: undone

    async def async_too() -> None:
        await app.using(jobs.aconn).aenqueue("async kept")
        await jobs.aconn.commit()
        await app.using(jobs.aconn).aenqueue("async dropped")
        await jobs.aconn.rollback()

    asyncio.run(async_too())
    assert [job.task for job in jobs.enqueued()] == ["kept", "kept too", "async kept"]
    assert scalar(conn, LEFT) == 0


def test_nothing_of_it_is_loaded_or_left_in_production(app: App) -> None:
    plain = App("unused").queries
    with rolled_back(app) as jobs:
        jobs.travel(60)
        assert b"60.0" in app.queries.jobs.next_due(["q"]).sql
    assert app.queries.jobs.next_due(["q"]).sql == plain.jobs.next_due(["q"]).sql
    assert pgqueue_testing.__name__ not in __import__("pgqueue").__dict__.get("__all__", ())
