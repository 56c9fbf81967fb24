"""pgqueue.testing: a test's jobs live in its transaction, run by the worker's statements, and leave nothing behind."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from conftest import Databases, scalar
from harness import Conn
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker
from test_enqueue import for_asyncpg

from pgqueue import (
    App,
    Cancel,
    ConfigError,
    Context,
    Fail,
    InvalidArguments,
    InvalidOption,
    JobFailed,
    Retry,
    Snooze,
    TimedOut,
    UnknownJob,
    WaitTimeout,
)
from pgqueue import testing as pgqueue_testing
from pgqueue.events import JobDeadLettered, JobEnqueued, JobRetried, JobSucceeded
from pgqueue.testing import Drained, Jobs, context, rolled_back, using

LEFT = "select (select count(*) from pgqueue.job) + (select count(*) from pgqueue.transition)"
MOVES = "select from_state, to_state, attempt, reason from pgqueue.transition where job_id = %s order by lease, at"


@pytest.fixture(scope="module")
def shared(server_dsn: str, template: str) -> Iterator[str]:
    """One database for them all: that they leave nothing in it is what they promise."""
    databases = Databases(server_dsn)
    yield databases.make(template)
    databases.drop_all()


@pytest.fixture
def dsn(shared: str) -> str:
    """The database of these tests."""
    return shared


@pytest.fixture
def others(conn: Conn) -> Iterator[Conn]:
    """A connection of others, that do commit."""
    yield conn
    conn.execute("truncate pgqueue.job_live, pgqueue.transition, pgqueue.schedule, pgqueue.schedule_ahead")


@pytest.fixture
def jobs(app: App, conn: Conn) -> Iterator[Jobs]:
    """The jobs of the test; a second connection looks, at the end, for what they left."""
    with rolled_back(app) as jobs:
        yield jobs
        assert scalar(conn, LEFT) == 0
    assert scalar(conn, LEFT) == 0
    assert scalar(conn, "select count(*) from pgqueue.schedule") == 0


def moves(jobs: Jobs, job_id: int) -> list[Any]:
    return jobs.conn.execute(MOVES, [job_id]).fetchall()


# --- the transaction


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


def test_an_app_without_a_dsn_works_on_a_lent_connection(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGQUEUE_DSN", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    app = App()
    with psycopg.connect(dsn) as lent:
        with using(app, lent) as jobs:
            app.enqueue("t")
            assert len(jobs.enqueued("t")) == 1
        lent.rollback()
    with pytest.raises(ConfigError, match="PGQUEUE_DSN"):
        app.enqueue("t")


def test_a_connection_in_no_transaction_is_refused(app: App, conn: Conn) -> None:
    with pytest.raises(ConfigError, match="in no transaction"), using(app, conn):
        pass


def test_asyncpg_and_sessions_are_refused_with_what_to_give(dsn: str, app: App) -> None:
    async def check() -> None:
        import asyncpg

        lent = await asyncpg.connect(**for_asyncpg(dsn))
        with pytest.raises(ConfigError, match="give a psycopg one"), using(app, lent):
            pass
        await lent.close()
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
    with psycopg.connect(dsn) as lent:
        app.using(lent).enqueue("t")
        with using(app, lent) as jobs:
            assert [job.task for job in jobs.enqueued()] == ["t"]
            assert jobs.drain().succeeded == 1
        lent.rollback()


def test_code_may_commit_and_roll_back_the_test_s_connection(app: App, conn: Conn, jobs: Jobs) -> None:
    def enqueue_two(lent: Any) -> None:
        app.using(lent).enqueue("kept")
        lent.commit()
        app.using(lent).enqueue("dropped")
        lent.rollback()
        with lent:  # commits, and closes nothing
            app.using(lent).enqueue("kept too")

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


# --- what was enqueued


def test_assert_enqueued_compares_python_values_json_and_options(app: App, jobs: Jobs) -> None:
    @app.task(queue="email", tags=["a", "b"])
    def send(order_id: int, on: date, wait: timedelta = timedelta(0)) -> None: ...

    at = datetime(2031, 1, 1, tzinfo=UTC)
    job = send.using(run_at=at, priority=5, max_attempts=2).enqueue(1, on=date(2030, 1, 2))
    send.using(delay=60).enqueue(2, on=date(2030, 1, 3))
    assert jobs.assert_enqueued(send).id == job.id
    assert jobs.assert_enqueued(send, {"on": date(2030, 1, 2)}).id == job.id
    jobs.assert_enqueued(send, {"on": "2030-01-02", "order_id": 1}, queue="email", priority=5, max_attempts=2)
    jobs.assert_enqueued(send.name, run_at=at + timedelta(seconds=0.5), tags=["b", "a"], state="scheduled", count=1)
    jobs.assert_enqueued(send, {"order_id": 2}, delay=60)
    jobs.assert_enqueued(send, {"order_id": 2}, delay=70, within=11)
    jobs.assert_enqueued(count=2)
    jobs.assert_not_enqueued(send, {"order_id": 3})
    jobs.assert_not_enqueued(send, {"order_id": 1}, queue="default")
    jobs.assert_not_enqueued("other")
    assert [job.args["order_id"] for job in jobs.enqueued(send)] == [1, 2]
    assert jobs.enqueued(send, {"order_id": 1}, priority=4) == []


def failure(check: Callable[[], Any]) -> str:
    with pytest.raises(AssertionError) as raised:
        check()
    return str(raised.value)


def test_a_failing_assertion_shows_what_was_enqueued_instead(app: App, jobs: Jobs) -> None:
    @app.task(name="shop.send", queue="email")
    def send(order_id: int, on: date = date(2030, 1, 1)) -> None: ...

    assert failure(lambda: jobs.assert_enqueued(send)).endswith("nothing was enqueued in this test")
    app.using(tags=["x"]).enqueue("shop.other", {"a": 1})
    send.using(delay=30).enqueue(41)
    said = failure(lambda: jobs.assert_enqueued(send, {"order_id": 42, "on": date(2030, 1, 1)}, queue="bulk", delay=60))
    lines = said.splitlines()
    assert lines[:3] == [
        "no job is waiting like this:",
        "  shop.send (order_id=42, on=datetime.date(2030, 1, 1)) queue=bulk delay=60",
        "enqueued were:",
    ]
    assert "shop.send(order_id=41) scheduled queue=email priority=0 run_at=20" in lines[3]
    assert lines[4:7] == [
        "      order_id: wanted 42, is 41",
        "      on: wanted datetime.date(2030, 1, 1), is not given",
        "      queue: wanted 'bulk', is 'email'",
    ]
    assert lines[7].startswith("      run_at: wanted 20")
    assert lines[7].endswith(" is 30 s earlier")
    assert "shop.other(a=1) pending queue=default" in lines[8]
    assert lines[8].endswith("tags=['x']")
    assert "2 jobs, not 1, are waiting like this" in failure(lambda: jobs.assert_enqueued(count=1))
    unwanted = failure(lambda: jobs.assert_not_enqueued(send))
    assert "nothing like this should be enqueued:\n  shop.send\nbut it is:\n  #" in unwanted


def test_what_has_run_no_longer_waits_and_the_failure_says_so(app: App, jobs: Jobs) -> None:
    @app.task
    def t() -> None: ...

    t.enqueue()
    jobs.drain()
    jobs.assert_not_enqueued(t)
    jobs.assert_enqueued(t, state="succeeded")
    jobs.assert_enqueued(t, state="any")
    assert "state: wanted waiting, is succeeded" in failure(lambda: jobs.assert_enqueued(t))


# --- drain


def test_drain_writes_the_transitions_that_a_worker_writes(app: App, jobs: Jobs) -> None:
    @app.task(retry=[60], max_attempts=2)
    def t(how: str) -> str:
        if how == "raise":
            raise ValueError("no")
        return how

    good, bad = t.enqueue("well"), t.enqueue("raise")
    assert jobs.drain() == Drained(succeeded=1, retried=1)
    assert moves(jobs, good.id) == [
        (None, "pending", 0, None),
        ("pending", "running", 1, None),
        ("running", "succeeded", 1, None),
    ]
    assert moves(jobs, bad.id)[1:] == [("pending", "running", 1, None), ("running", "pending", 1, "error")]
    assert (app.get(good.id).state, app.get(good.id).result) == ("succeeded", "well")
    seen = app.get(bad.id)
    assert (seen.phase, seen.attempt, [e.type for e in seen.errors]) == ("retrying", 1, ["ValueError"])
    assert jobs.drain(with_scheduled=True) == Drained(failed=1)
    assert moves(jobs, bad.id)[-1] == ("running", "failed", 2, "exhausted")
    assert scalar(jobs.conn, "select reason from pgqueue.dead_letter") == "exhausted"


def test_every_verdict_is_counted_and_has_its_effect(app: App, jobs: Jobs) -> None:
    verdicts: dict[str, BaseException] = {
        "retry": Retry(delay=5), "snooze": Snooze(9), "fail": Fail("no"), "cancel": Cancel("no"), "exit": SystemExit(3),
    }  # fmt: skip

    @app.task(max_attempts=2)
    async def t(how: str) -> None:
        raise verdicts[how]

    ids = {how: t.enqueue(how).id for how in verdicts}
    app.enqueue("nobody knows")
    assert jobs.drain() == Drained(retried=2, snoozed=1, failed=1, cancelled=1, parked=1)
    assert jobs.drain().total == 0
    states = {how: (app.get(job_id).state, app.get(job_id).attempt) for how, job_id in ids.items()}
    assert states == {
        "retry": ("pending", 1), "snooze": ("pending", 0), "fail": ("failed", 1), "cancel": ("cancelled", 1),
        "exit": ("pending", 1),
    }  # fmt: skip
    app.task(name="nobody knows")(lambda: None)
    assert jobs.drain() == Drained(succeeded=1)  # adopted


def test_jobs_run_in_the_order_of_a_worker_and_so_do_those_they_enqueue(app: App, jobs: Jobs) -> None:
    ran: list[Any] = []

    @app.task
    def sync(name: str) -> None:
        ran.append(name)
        if name == "b":
            asyn.using(priority=9).enqueue("from b")

    @app.task
    async def asyn(name: str) -> None:
        ran.append(name)
        if name == "from b":
            await asyn.aenqueue("from that")

    sync.enqueue("c")
    sync.using(priority=1).enqueue("b")
    sync.using(priority=2).enqueue("a")
    sync.using(delay=60).enqueue("later")
    assert jobs.drain().succeeded == 5
    assert ran == ["a", "b", "from b", "c", "from that"]


def test_until_empty_false_runs_what_is_due_now(app: App, jobs: Jobs) -> None:
    @app.task
    def again(n: int) -> None:
        again.enqueue(n + 1)

    again.enqueue_many([{"n": 1}, {"n": 11}])
    assert jobs.drain(until_empty=False).succeeded == 2
    assert sorted(job.args["n"] for job in jobs.enqueued(again)) == [2, 12]


def test_a_drain_without_end_fails(app: App, jobs: Jobs) -> None:
    @app.task
    def again() -> None:
        again.enqueue()

    again.enqueue()
    said = failure(lambda: jobs.drain(limit=7))
    assert "7 attempts have run, and jobs are still due, such as #" in said
    (left,) = jobs.enqueued(again)
    assert (left.state, left.attempt) == ("pending", 0)


def test_an_error_that_is_asked_for_is_raised_once_it_is_recorded(app: App, jobs: Jobs) -> None:
    class Broken(Exception): ...

    @app.task(queue="a", max_attempts=1)
    async def fails() -> None:
        raise Broken("here")

    @app.task(queue="b")
    def fine(n: int) -> None: ...

    bad = fails.enqueue()
    fine.enqueue(1)
    with pytest.raises(Broken, match="here") as raised:
        jobs.drain(raise_errors=True)
    assert raised.traceback[-1].name == "fails"
    assert app.get(bad.id).state == "failed"
    jobs.assert_enqueued(fine, count=1)
    app.enqueue(fails.name)
    with pytest.raises(Broken):
        jobs.drain(raise_errors=True, until_empty=False)
    (left,) = jobs.enqueued(fine)  # was claimed with it, and given back
    assert (left.state, left.attempt) == ("pending", 0)
    assert jobs.drain().succeeded == 1


@pytest.mark.parametrize("verdict", [Retry(), Snooze(1), Fail("no"), Cancel("no")], ids=lambda v: type(v).__name__)
def test_a_verdict_is_no_error(app: App, jobs: Jobs, verdict: Exception) -> None:
    def t() -> None:
        raise verdict

    app.task(name="t")(t)
    app.enqueue("t")
    assert jobs.drain(raise_errors=True).total == 1


def test_arguments_that_do_not_fit_and_timeouts_are_raised_too(app: App, jobs: Jobs) -> None:
    @app.task(timeout=0.01)
    async def slow() -> None:
        await asyncio.sleep(5)

    app.task(name="typed")(_typed)
    slow.enqueue()
    with pytest.raises(TimedOut, match="longer than its timeout"):
        jobs.drain(raise_errors=True)
    bad = app.enqueue("typed", {"n": 1})
    jobs.conn.execute('update pgqueue.job_live set args = \'{"n": "x"}\' where id = %s', [bad.id])
    with pytest.raises(ValueError, match="valid integer"):
        jobs.drain(raise_errors=True)
    assert app.get(bad.id).reason == "invalid arguments"


def _typed(n: int) -> None: ...


def test_a_failing_test_assertion_inside_a_task_fails_the_test(app: App, jobs: Jobs) -> None:
    @app.task
    def t() -> None:
        pytest.fail("from the task")

    t.enqueue()
    with pytest.raises(pytest.fail.Exception, match="from the task"):
        jobs.drain()


def test_a_task_that_breaks_the_transaction_is_undone_alone(app: App, jobs: Jobs) -> None:
    jobs.conn.execute("create table orders (id int primary key)")

    @app.task(max_attempts=1)
    def sync(n: int) -> None:
        jobs.conn.execute("insert into orders values (%s)", [n])
        if n != 3:
            jobs.conn.execute("insert into orders values (%s)", [n])

    @app.task(max_attempts=1)
    async def asyn(n: int) -> None:
        await jobs.aconn.execute("insert into orders values (%s)", [n])
        await jobs.aconn.commit()  # stays
        await jobs.aconn.execute("select 1 / 0")

    sync.enqueue(1)
    asyn.enqueue(2)
    sync.enqueue(3)
    assert jobs.drain() == Drained(succeeded=1, failed=2)
    assert jobs.conn.execute("select array_agg(id) from orders").fetchone() == ([2, 3],)


def test_many_jobs_do_not_leave_many_savepoints(app: App, jobs: Jobs) -> None:
    kept = jobs.restore._number = 95
    outer = iter(range(100))

    @app.task
    def t(n: int) -> None:
        if n == 8:
            jobs.conn.commit()  # ends the savepoint of the job as well
        next(outer)

    t.enqueue_many([{"n": n} for n in range(12)])
    assert jobs.drain().succeeded == 12
    for number, there in ((kept + 1, False), (kept + 7, False), (kept + 12, False)):
        with pytest.raises(psycopg.errors.InvalidSavepointSpecification), jobs.conn.transaction():
            jobs.conn.execute(f"rollback to savepoint pgqueue_job_{number}".encode())
        assert not there


def test_context_transactions_and_progress_work(app: App, jobs: Jobs) -> None:
    jobs.conn.execute("create table orders (id int)")

    @app.task
    def pay(ctx: Context, n: int) -> None:
        ctx.progress(1, 2)
        with ctx.transaction(result={"n": n}) as lent:
            lent.execute("insert into orders values (%s)", [n])

    @app.task(retry=0)
    async def refuse(ctx: Context) -> None:
        async with ctx.atransaction() as lent:
            await lent.execute("insert into orders values (0)")
            if not ctx.is_last_attempt:
                raise ValueError("no")

    paid, refused = pay.enqueue(1), refuse.using(max_attempts=2).enqueue()
    assert jobs.drain() == Drained(succeeded=2, retried=1)
    assert jobs.conn.execute("select array_agg(id order by id) from orders").fetchone() == ([0, 1],)
    assert (app.get(paid.id).result, app.get(refused.id).state) == ({"n": 1}, "succeeded")


def test_middlewares_events_and_cancelling_are_heard(app: App, jobs: Jobs) -> None:
    seen: list[str] = []

    @app.middleware
    async def around(ctx: Context, call_next: Any) -> None:
        seen.append("before")
        await call_next()
        seen.append("after")

    @app.on(JobSucceeded)
    async def late(event: JobSucceeded) -> None:
        await asyncio.sleep(0)
        seen.append("succeeded")

    for kind in (JobRetried, JobDeadLettered, JobEnqueued):
        app.on(kind)(lambda event: seen.append(type(event).__name__))

    @app.task(retry=0, max_attempts=2)
    def t(fail: bool) -> None:
        seen.append("runs")
        if fail:
            raise ValueError

    @app.task
    def stop(ctx: Context) -> None:
        assert app.cancel(ctx.job_id) is False
        raise Retry(delay=0)

    t.enqueue(False)
    jobs.drain()
    assert seen == ["JobEnqueued", "before", "runs", "after", "succeeded"]
    seen.clear()
    t.enqueue(True)
    jobs.drain()
    assert [s for s in seen if s.startswith("Job")] == ["JobEnqueued", "JobRetried", "JobDeadLettered"]
    job = stop.enqueue()
    assert jobs.drain() == Drained(cancelled=1)
    assert app.get(job.id).state == "cancelled"


def test_sync_tasks_of_a_sync_test_run_in_its_thread_and_in_no_event_loop(app: App, jobs: Jobs) -> None:
    seen: list[Any] = []

    @app.task(isolation="process")
    def sync() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        seen.append(threading.current_thread())

    sync.enqueue()
    assert jobs.drain(raise_errors=True).succeeded == 1
    assert seen == [threading.current_thread()]


def test_an_async_test_drains_on_its_own_loop(app: App, jobs: Jobs) -> None:
    loops: list[Any] = []

    @app.task
    async def asyn() -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.to_thread(lambda: None)
        sync.enqueue()

    @app.task
    def sync() -> None:
        loops.append(threading.current_thread())
        asyn.using(delay=60).enqueue()

    async def check() -> None:
        await asyn.aenqueue()
        with pytest.raises(ConfigError, match=r"await adrain\(\)"):
            jobs.drain()
        assert (await jobs.adrain(raise_errors=True)).succeeded == 2
        jobs.assert_enqueued(asyn, delay=60)
        jobs.travel(minutes=1)
        assert (await jobs.adrain(until_empty=False)).succeeded == 1
        assert loops[0] is loops[2] is asyncio.get_running_loop()
        assert loops[1] is not threading.current_thread()

    asyncio.run(check())


def test_unfit_results_are_recorded_as_in_production(app: App, jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    @app.task
    def t() -> Any:
        return object()

    job = t.enqueue()
    with caplog.at_level(logging.ERROR):
        assert jobs.drain().succeeded == 1
    assert (app.get(job.id).state, app.get(job.id).result) == ("succeeded", None)
    assert app.get(job.id).errors


# --- inline and run


def test_inline_runs_a_job_through_json_when_it_is_enqueued(app: App, jobs: Jobs) -> None:
    seen: list[Any] = []

    @app.task
    def t(on: date, pair: tuple[int, int]) -> str:
        seen.append((on, pair))
        return str(on)

    with jobs.inline():
        job = t.using(run_at=datetime(2040, 1, 1, tzinfo=UTC)).enqueue(date(2030, 1, 1), (1, 2))
        ids = t.enqueue_many([{"on": date(2031, 1, 1), "pair": [3, 4]}])
        with pytest.raises(InvalidArguments):
            t.enqueue("no date", (1, 2))  # type: ignore[arg-type]
    assert (job.state, job.result, job.attempt) == ("succeeded", "2030-01-01", 1)
    assert app.get(ids[0]).state == "succeeded"
    assert seen == [(date(2030, 1, 1), (1, 2)), (date(2031, 1, 1), (3, 4))]
    assert [m[:2] for m in moves(jobs, job.id)] == [
        (None, "pending"), ("pending", "running"), ("running", "succeeded"),
    ]  # fmt: skip
    assert t.enqueue(date(2030, 1, 1), (1, 2)).state == "pending"


def test_inline_raises_where_the_job_was_enqueued_or_records_only(app: App, jobs: Jobs) -> None:
    @app.task
    def inner() -> None:
        raise ValueError("inner")

    @app.task
    async def outer() -> str:
        with pytest.raises(ValueError, match="inner"):
            await inner.aenqueue()
        with pytest.raises(ValueError, match="inner"):
            inner.enqueue()
        return "went on"

    with jobs.inline():
        assert outer.enqueue().result == "went on"
    with jobs.inline(raise_errors=False):
        job = inner.enqueue()
    assert (job.phase, job.attempt, job.errors[0].message) == ("retrying", 1, "inner")

    async def check() -> None:
        with jobs.inline():
            assert (await outer.aenqueue()).result == "went on"
            (one,) = await outer.using().aenqueue_many([{}])
        assert (await app.aget(one)).state == "succeeded"

    asyncio.run(check())


def test_a_wait_looks_once_in_the_test_s_transaction(app: App, jobs: Jobs) -> None:
    @app.task(name="double")
    async def double(n: int) -> int:
        if n < 0:
            raise ValueError(n)
        return 2 * n

    @app.task(name="outer", max_attempts=1)
    async def outer() -> int:
        return int(await (await double.aenqueue(5)).await_result(60))

    job = double.enqueue(1)
    assert jobs.drain().succeeded == 1
    assert [job.wait(), app.wait_all([job.id, job.id]), asyncio.run(job.await_result(60))] == [2, [2, 2], 2]
    assert asyncio.run(job.await_result(1e-9)) == 2  # time is up, and it has ended all the same
    with jobs.inline():
        assert double.enqueue(2).wait(60) == 4
        assert jobs.run(outer.enqueue()).result == 10
    failed, waits = double.using(max_attempts=1).enqueue(-1), double.using(delay=60).enqueue(1)
    jobs.drain()
    with pytest.raises(JobFailed, match="ValueError: -1"):
        failed.wait()
    for wait in (waits.wait, lambda: asyncio.run(app.await_result(waits.id))):
        with pytest.raises(
            WaitTimeout, match=r"is scheduled: in a test jobs run in drain\(\), run\(\) and inline\(\) alone"
        ):
            wait()
    with pytest.raises(WaitTimeout, match="is not there"):
        app.wait(waits.id + 1)
    gone = app.task(name="gone", retention=0)(lambda: 1).enqueue()
    jobs.drain()
    assert gone.wait() is None
    app.close()  # as a framework does at its end: there is nothing to close


def test_inline_leaves_other_apps_alone(app: App, dsn: str, jobs: Jobs) -> None:
    other = App(dsn)
    with jobs.inline():
        assert other.using(jobs.conn).enqueue("t").state == "pending"


def test_run_takes_one_job_whenever_it_is_due(app: App, jobs: Jobs) -> None:
    @app.task
    def t(n: int) -> int:
        return n

    t.enqueue(1)
    later = t.using(delay=3600).enqueue(2)
    assert jobs.run(later).result == 2
    assert jobs.run(later.id).attempt == 1  # it has ended: nothing happens
    jobs.assert_enqueued(t, count=1)
    with pytest.raises(UnknownJob):
        jobs.run(12345)


# --- time


def test_travelling_moves_run_at_retries_and_snoozes(app: App, conn: Conn, jobs: Jobs) -> None:
    runs: list[int] = []

    @app.task(retry=[100, 1000])
    def t() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError

    start = jobs.now()
    job = t.using(delay=50).enqueue()
    assert (jobs.drain().total, app.get(job.id).phase) == (0, "scheduled")
    jobs.travel(49)
    assert jobs.drain().total == 0
    jobs.travel(timedelta(seconds=2))
    assert app.get(job.id).phase == "pending"
    assert jobs.drain().retried == 1
    jobs.travel(seconds=101)
    assert jobs.drain().retried == 1
    jobs.travel(minutes=15)
    assert jobs.drain().total == 0
    jobs.travel(hours=1)
    assert jobs.drain().succeeded == 1
    seen = app.get(job.id)
    times = [job.created_at, *[t for a in seen.attempts for t in (a.started_at, a.ended_at)]]
    assert times == sorted(times)
    assert [round((a.started_at - start).total_seconds()) for a in seen.attempts] == [51, 152, 4652]
    assert seen.finished_at is not None
    assert abs(seen.finished_at - seen.attempts[-1].ended_at) < timedelta(seconds=1)  # type: ignore[operator]
    later = t.enqueue()
    assert later.created_at > seen.finished_at
    assert jobs.now() - scalar(conn, "select clock_timestamp()") > timedelta(seconds=4600)


def test_a_test_may_begin_at_any_moment(app: App, jobs: Jobs) -> None:
    for moment in (datetime(1999, 12, 31, 23, 59, tzinfo=UTC), datetime(2040, 2, 29, tzinfo=UTC)):
        assert abs(jobs.travel_to(moment) - moment) < timedelta(seconds=5)
        job = app.enqueue("t")
        assert abs(job.run_at - moment) < timedelta(seconds=5)
        assert (job.phase, app.get(job.id).phase) == ("pending", "pending")
    with pytest.raises(InvalidOption, match="no timezone"):
        jobs.travel_to(datetime(2030, 1, 1))


def test_travelling_moves_the_next_tick_of_a_schedule(app: App, jobs: Jobs) -> None:
    ticks: list[str] = []

    @app.schedule("30 6 * * *", timezone="Europe/Paris", args={"n": 1})
    @app.task
    def daily(ctx: Context, n: int) -> None:
        ticks.append(ctx.headers["tick"])

    jobs.travel_to(datetime(2030, 3, 30, 0, 0, tzinfo=UTC))
    assert jobs.fire_schedules() == []
    jobs.travel(hours=5)
    assert jobs.fire_schedules() == []
    jobs.travel(hours=1)
    (job,) = jobs.fire_schedules()
    assert (job.task, jobs.fire_schedules()) == (daily.name, [])
    assert jobs.drain().succeeded == 1
    jobs.travel(days=3)  # over the change to summer time; two ticks are missed, the newest fires
    asyncio.run(_fire_one(jobs))
    assert jobs.drain().succeeded == 1
    assert ticks == ["2030-03-30T05:30:00+00:00", "2030-04-02T04:30:00+00:00"]
    fires = jobs.conn.execute("select outcome from pgqueue.schedule_fire order by tick").fetchall()
    assert [outcome for (outcome,) in fires] == ["fired", "missed", "missed", "fired"]


async def _fire_one(jobs: Jobs) -> None:
    with pytest.raises(ConfigError, match=r"await afire_schedules\(\)"):
        jobs.fire_schedules()
    assert len(await jobs.afire_schedules()) == 1


def test_schedules_of_others_do_not_fire(app: App, others: Conn) -> None:
    others.execute(
        "insert into pgqueue.schedule (name, task, every_seconds, queue, next_tick)"
        " values ('other', 't', 60, 'default', now())"
    )
    with rolled_back(app) as jobs:
        jobs.travel(days=1)
        assert jobs.fire_schedules() == []


# --- a task alone


def test_a_context_for_a_task_alone(app: App, jobs: Jobs) -> None:
    @app.task(queue="email", max_attempts=3, tags=["x"])
    def t(ctx: Context, n: int) -> Any:
        ctx.progress(1, 2, "half")
        ctx.check()
        return ctx.task, ctx.queue, ctx.attempt, ctx.is_last_attempt, ctx.tags, ctx.headers, n

    ctx = context(t, attempt=3, headers={"tick": "now"})
    assert t(ctx, 5) == (t.name, "email", 3, True, ("x",), {"tick": "now"}, 5)
    assert ctx.said == [{"done": 1, "total": 2, "note": "half"}]
    with pytest.raises(TimedOut):
        t(context(t, remaining=-1), 5)
    ctx.cancel()
    with pytest.raises(Cancel):
        t(ctx, 5)
    with pytest.raises(Cancel):
        t(context(cancelled=True), 5)
    with pytest.raises(ConfigError, match=r"context\(conn=…\)"):
        context("t").transaction()


def test_a_context_lends_the_test_s_connection(app: App, jobs: Jobs) -> None:
    ctx = context("t", conn=jobs.conn)
    with ctx.transaction(result=7) as lent:
        assert not ctx.completed
        lent.execute("select 1")
    assert (ctx.completed, ctx.result) == (True, 7)

    async def check() -> None:
        actx = context("t", conn=jobs.aconn)
        async with actx.atransaction() as lent:
            await lent.execute("select 1")
        assert actx.completed

    asyncio.run(check())


# --- SQLAlchemy


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
        assert session.scalar(text("select count(*) from orders")) == 2  # what each has committed


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


def test_nothing_of_it_is_loaded_or_left_in_production(app: App) -> None:
    plain = App("unused").queries
    with rolled_back(app) as jobs:
        jobs.travel(60)
        assert b"60.0" in app.queries.jobs.next_due(["q"]).sql
    assert app.queries.jobs.next_due(["q"]).sql == plain.jobs.next_due(["q"]).sql
    assert pgqueue_testing.__name__ not in __import__("pgqueue").__dict__.get("__all__", ())
