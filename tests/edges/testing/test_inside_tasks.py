"""What tasks have while a test drains: its transaction, contexts, middlewares, threads and loops."""

import asyncio
import logging
import threading
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cancel, ConfigError, Context, Retry, TimedOut
from pgqueue.events import JobDeadLettered, JobEnqueued, JobRetried, JobSucceeded
from pgqueue.testing import Drained, Jobs, context


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
    kept = jobs.backend.savepoints._number = 95
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
        with ctx.transaction(result={"n": n}) as borrowed:
            borrowed.execute("insert into orders values (%s)", [n])

    @app.task(retry=0)
    async def refuse(ctx: Context) -> None:
        async with ctx.atransaction() as borrowed:
            await borrowed.execute("insert into orders values (0)")
            if not ctx.is_last_attempt:
                raise ValueError("no")

    ended: list[int] = []
    app.on(JobSucceeded)(lambda event: ended.append(event.job_id))
    paid, refused = pay.enqueue(1), refuse.using(max_attempts=2).enqueue()
    assert jobs.drain() == Drained(succeeded=2, retried=1)
    assert ended == [paid.id, refused.id]
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


def test_a_context_for_a_task_alone(app: App, jobs: Jobs) -> None:
    @app.task(queue="email", max_attempts=3, tags=["x"])
    def t(ctx: Context, n: int) -> Any:
        ctx.progress(1, 2, "half")
        ctx.check()
        return ctx.task, ctx.queue, ctx.attempt, ctx.is_last_attempt, ctx.tags, ctx.headers, n

    ctx = context(t, attempt=3, headers={"tick": "now"})
    assert t(ctx, 5) == (t.name, "email", 3, True, ("x",), {"tick": "now"}, 5)
    assert ctx.reported == [{"done": 1, "total": 2, "note": "half"}]
    with pytest.warns(DeprecationWarning, match="reported"):
        assert ctx.said is ctx.reported
    with pytest.raises(TimedOut):
        t(context(t, remaining=-1), 5)
    ctx.cancel()
    with pytest.raises(Cancel):
        t(ctx, 5)
    with pytest.raises(Cancel):
        t(context(cancelled=True), 5)
    with pytest.raises(ConfigError, match=r"context\(conn=…\)"):
        context("t").transaction()


def test_a_context_gives_the_task_the_test_s_connection(app: App, jobs: Jobs) -> None:
    ctx = context("t", conn=jobs.conn)
    with ctx.transaction(result=7) as borrowed:
        assert not ctx.completed
        borrowed.execute("select 1")
    assert (ctx.completed, ctx.result) == (True, 7)

    async def check() -> None:
        actx = context("t", conn=jobs.aconn)
        async with actx.atransaction() as borrowed:
            await borrowed.execute("select 1")
        assert actx.completed

    asyncio.run(check())
