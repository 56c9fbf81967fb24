"""Faults of the matrix that need no processes: cancelled awaits, storms of retries, twins, a killed migrator."""

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator
from statistics import pstdev
from typing import Any

import psycopg
import pytest
from conftest import drain, scalar, work
from harness import QUERIES, Conn, insert_job, wait_for

from pgqueue import App, db, migrate
from pgqueue.errors import MigrationBlocked
from pgqueue.identity import describe
from pgqueue.job import ClaimedJob
from pgqueue.link import Link
from pgqueue.worker.completion import Completion

OPEN = """select count(*) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and state like 'idle in transaction%'"""
UNLOGGED = "select count(*) from pgqueue.job_live where id not in (select job_id from pgqueue.transition)"


class CancelledAt:
    """Awaits a coroutine up to its n-th suspension, and there throws a cancellation into it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], n: int) -> None:
        self._coroutine = coroutine
        self._n = n

    def __await__(self) -> Generator[Any, None, Any]:
        for n in itertools.count():
            try:
                waits_for = (
                    self._coroutine.throw(asyncio.CancelledError()) if n == self._n else self._coroutine.send(None)
                )
            except StopIteration as end:
                return end.value
            yield waits_for
        raise AssertionError("unreachable")


async def cancelled_everywhere(call: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Any]) -> int:
    """Cancel a call at each of its awaits in turn, until it gets through; return how many there were."""
    for n in itertools.count():
        try:
            await CancelledAt(call(), n)
        except asyncio.CancelledError:
            check()
        else:
            return n
    raise AssertionError("unreachable")


# psycopg leaves a connection that is cancelled while it is made to the garbage collector, which closes it and warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_enqueue_cancelled_at_any_await_leaves_all_or_nothing_and_a_usable_pool(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    async def run() -> None:
        assert await cancelled_everywhere(lambda: app.aenqueue("t"), lambda: None) > 1
        assert (await app.aenqueue("t")).id > 0
        assert scalar(conn, OPEN) == 0
        await app.aclose()

    asyncio.run(run())
    assert scalar(conn, UNLOGGED) == 0
    wait_for(lambda: scalar(conn, "select count(*) = 0 from pg_stat_activity where application_name = 'pgqueue'"))


def test_a_borrowed_connection_stays_the_callers_when_an_enqueue_on_it_is_cancelled(dsn: str, conn: Conn) -> None:
    app = App(dsn)

    async def run() -> None:
        for n in range(20):
            async with await psycopg.AsyncConnection.connect(dsn) as lent:
                try:
                    await CancelledAt(app.using(lent).aenqueue("t"), n)
                except asyncio.CancelledError:
                    await lent.rollback()
                    assert (await (await lent.execute("select 1")).fetchone()) == (1,)
                else:
                    await lent.rollback()
                    return

    asyncio.run(run())
    assert scalar(conn, "select count(*) from pgqueue.job_live") == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_a_link_cancelled_at_any_await_drops_its_connection_and_makes_a_new_one(dsn: str, conn: Conn) -> None:
    link = Link(db.Database(dsn), "pgqueue test")

    async def run() -> None:
        assert await cancelled_everywhere(lambda: link.run(QUERIES.clock()), lambda: None) > 1
        await link.run(QUERIES.clock())
        assert scalar(conn, "select count(*) from pg_stat_activity where application_name = 'pgqueue test'") == 1
        await link.close()

    asyncio.run(run())
    wait_for(lambda: scalar(conn, "select count(*) = 0 from pg_stat_activity where application_name = 'pgqueue test'"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_a_completion_cancelled_at_any_await_has_both_effects_or_none(dsn: str, conn: Conn) -> None:
    app = App(dsn)
    worker = describe("worker", 30.0, [], [], 1)
    conn.execute("create table pgqueue.effect (job_id bigint)")

    def running() -> ClaimedJob:
        insert_job(conn)
        (job,) = db.run(conn, QUERIES.claim(worker.id, {"default": 1}, 1))
        return job

    async def complete(job: ClaimedJob) -> None:
        async with Completion(app, job).atransaction(None) as lent:
            await lent.execute("insert into pgqueue.effect values (%s)", (job.id,))

    def both_or_none() -> None:
        halves = """select count(*) from (select id from pgqueue.job_finished) as f full join pgqueue.effect e
                    on e.job_id = f.id where f.id is null or e.job_id is null"""
        wait_for(lambda: scalar(conn, OPEN) == 0)
        assert scalar(conn, halves) == 0

    async def run() -> None:
        assert await cancelled_everywhere(lambda: complete(running()), lambda: None) > 1
        await app.aclose()

    asyncio.run(run())
    both_or_none()
    assert scalar(conn, "select count(*) from pgqueue.effect") >= 1


def test_a_thousand_failures_at_once_come_back_spread_and_hold_up_no_other_queue(app: App, conn: Conn) -> None:
    @app.task(name="jitters")
    def jitters() -> None:
        raise RuntimeError("downstream is down")

    @app.task(name="fine", queue="other")
    def fine() -> None: ...

    jitters.enqueue_many({} for _ in range(1000))
    other = fine.enqueue()

    async def run() -> None:
        failed = "select count(*) >= 1000 from pgqueue.transition where reason = 'error'"
        served = "select state = 'succeeded' from pgqueue.job where id = %s"
        done = lambda: scalar(conn, failed) and scalar(conn, served, other.id)  # noqa: E731
        await work(app, done, queues=["default", "other"])

    asyncio.run(run())
    delays = conn.execute(
        "select extract(epoch from j.run_at - t.at)::float8 from pgqueue.job_live j"
        " join pgqueue.transition t on t.job_id = j.id and t.reason = 'error' and t.attempt = 1 where j.attempt = 1"
    ).fetchall()
    assert len(delays) > 500
    assert pstdev(delay for (delay,) in delays) > 0.3  # full jitter over two seconds: 0.58


def test_twins_on_one_host_with_one_pid_are_two_workers(app: App, conn: Conn) -> None:
    """F43: containers that are restarted often have the same host name and pid as before."""
    first, second = (describe("worker", 30.0, ["default"], ["t"], 1) for _ in range(2))
    assert (first.host, first.pid) == (second.host, second.pid)
    assert first.id != second.id
    for twin in (first, second):
        db.run(conn, QUERIES.register(twin))
        app.enqueue("t")
    jobs = [db.run(conn, QUERIES.claim(twin.id, {"default": 1}, 1))[0] for twin in (first, second)]
    conn.execute("update pgqueue.worker set lost_at = now() where id = %s", (first.id,))
    assert [rescued.id for rescued in db.run(conn, QUERIES.rescue(second.id))] == [jobs[0].id]


def test_a_migrator_that_is_killed_leaves_nothing_that_stops_the_next(empty_dsn: str) -> None:
    code = "import sys; from pgqueue import migrate; migrate.upgrade(sys.argv[1])"
    with psycopg.connect(empty_dsn) as rival, psycopg.connect(empty_dsn, autocommit=True) as observer:
        rival.execute("create schema pgqueue")
        with subprocess.Popen([sys.executable, "-c", code, empty_dsn]) as migrator:
            blocked = "select count(*) > 0 from pg_stat_activity where %s = any(pg_blocking_pids(pid))"
            wait_for(lambda: scalar(observer, blocked, rival.info.backend_pid), "the migrator to be blocked")
            migrator.send_signal(signal.SIGKILL)
        rival.rollback()
    assert migrate.upgrade(empty_dsn) == (None, migrate.head())


@pytest.fixture
def first_schema(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the schema of the first release, and five jobs in it."""
    upgrade = migrate.command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(migrate.command, "upgrade", lambda config, _: upgrade(config, "0001"))
        migrate.upgrade(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        for _ in range(5):
            insert_job(conn)
    assert migrate.current(empty_dsn) == "0001"
    return empty_dsn


def test_jobs_of_an_older_schema_are_there_in_the_new_one_and_run(first_schema: str) -> None:
    assert migrate.upgrade(first_schema) == ("0001", migrate.head())
    app = App(first_schema)

    @app.task(name="t")
    def t() -> None: ...

    with psycopg.connect(first_schema, autocommit=True) as conn:
        drain(app, conn)
        assert scalar(conn, "select count(*) from pgqueue.job_finished ") == 5
    app.close()


def test_an_upgrade_gives_up_behind_a_long_transaction_and_holds_up_nobody(
    first_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "100ms")
    with psycopg.connect(first_schema) as business:
        insert_job(business)
        with pytest.raises(MigrationBlocked, match="for 100ms, and nothing was changed"):
            migrate.upgrade(first_schema)
        assert migrate.current(first_schema) == "0001"
        business.commit()
    assert migrate.upgrade(first_schema) == ("0001", migrate.head())
