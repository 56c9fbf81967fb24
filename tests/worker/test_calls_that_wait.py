"""Calls whose jobs are brought back, or older than they are kept, while their caller waits for others."""

import asyncio

import pytest

from pgqueue import App, Context, UnknownJob, db
from tests.conftest import drain, scalar, work
from tests.harness import QUERIES, Conn
from tests.worker.test_calls import dsn

__all__ = ["dsn"]


def test_a_called_job_that_is_cancelled_and_retried_wakes_its_caller(app: App, conn: Conn) -> None:
    """The caller has not taken the end of the first call, because it waits for the second one."""

    @app.task(queue="idle")
    def first() -> int:
        return 7

    @app.task(queue="later")
    def second() -> int:
        return 8

    @app.task
    def caller(ctx: Context) -> list[int]:
        return ctx.gather("both", [first.s(), second.s()])

    job = caller.enqueue()
    asleep = "select count(*) = 1 from pgqueue.job_live where run_at > now() + interval '1 year'"
    asyncio.run(work(app, lambda: scalar(conn, asleep), queues=["default"]))
    child = scalar(conn, "select id from pgqueue.job_live where queue = 'idle'")
    app.cancel(child)
    app.retry(child)
    told = "select bool_and(ended and seen) from pgqueue.call"
    asyncio.run(work(app, lambda: scalar(conn, told) and scalar(conn, asleep), queues=["default", "later"]))
    none = "select count(*) = 0 from pgqueue.job_live"
    asyncio.run(work(app, lambda: scalar(conn, none), queues=["default", "idle"]))
    assert app.get(job.id).result == [7, 8]


def test_what_a_called_job_returned_outlives_its_retention_while_the_caller_waits(app: App, conn: Conn) -> None:
    @app.task
    def quick() -> int:
        return 7

    @app.task(queue="later")
    def slow() -> int:
        return 8

    @app.task
    def caller(ctx: Context) -> list[int]:
        return ctx.gather("both", [quick.s(), slow.s()])

    job, other = caller.enqueue(), quick.enqueue()
    ended = "select count(*) = 1 from pgqueue.call where ended"
    asyncio.run(work(app, lambda: scalar(conn, ended) and app.get(other.id).state == "succeeded", queues=["default"]))
    app.pruning.set("succeeded", 1, task="*quick")
    for table, at in (("job_finished", "finished_at"), ("step", "at"), ("workflow", "created_at")):
        conn.execute(f"update pgqueue.{table} set {at} = {at} - interval '1 minute'")
    app.pruning.run()
    with pytest.raises(UnknownJob):
        app.get(other.id)
    drain(app, conn, queues=["default", "later"])
    assert app.get(job.id).result == [7, 8]
    app.pruning.unset("succeeded", task="*quick")


def test_a_result_that_expires_stays_while_the_caller_waits_for_others(app: App, conn: Conn) -> None:
    @app.task(result_ttl=0.001)
    def quick() -> int:
        return 7

    @app.task(queue="later")
    def slow() -> int:
        return 8

    @app.task
    def caller(ctx: Context) -> list[int]:
        return ctx.gather("both", [quick.s(), slow.s()])

    job = caller.enqueue()
    asyncio.run(
        work(app, lambda: scalar(conn, "select count(*) = 1 from pgqueue.call where ended"), queues=["default"])
    )
    conn.execute("update pgqueue.result_expiry set expires_at = now()")  # a worker may have put it off
    db.run(conn, QUERIES.jobs.drop_expired_results(100))
    drain(app, conn, queues=["default", "later"])
    assert app.get(job.id).result == [7, 8]
