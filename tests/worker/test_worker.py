"""A worker in this process: runs tasks, writes outcomes, retries, parks, keeps its limits."""

import asyncio
import json
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cancel, Context, Fail, Job, Retry, Snooze
from tests.conftest import drain, scalar, work
from tests.harness import insert_job

Conn = psycopg.Connection[Any]


def run(app: App, conn: Conn, job: Job, **settings: Any) -> Job:
    """Drain the queue; return the job afterwards."""
    drain(app, conn, **settings)
    return app.get(job.id)


def moves(conn: Conn, job: int) -> list[tuple[Any, ...]]:
    query = "select to_state, reason from pgqueue.transition where job_id = %s order by at"
    return conn.execute(query, (job,)).fetchall()


def test_an_async_task_runs_on_the_event_loop_and_its_result_is_stored(app: App, conn: Conn) -> None:
    @app.task
    async def task(n: int) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"n": n, "thread": threading.current_thread() is threading.main_thread()}

    job = run(app, conn, task.enqueue(7))
    assert (job.state, job.result) == ("succeeded", {"n": 7, "thread": True})


def test_a_sync_task_runs_in_a_thread_and_its_result_is_stored(app: App, conn: Conn) -> None:
    @app.task
    def task(n: int) -> list[Any]:
        return [n, threading.current_thread().name.startswith("pgqueue-job")]

    job = run(app, conn, task.enqueue(7))
    assert (job.state, job.result) == ("succeeded", [7, True])


def test_a_task_without_a_result_stores_none(app: App, conn: Conn) -> None:
    @app.task
    def task() -> None: ...

    job = run(app, conn, task.enqueue())
    assert (job.state, job.result, job.errors) == ("succeeded", None, [])


def test_arguments_come_back_as_the_types_of_the_signature(app: App, conn: Conn) -> None:
    @app.task
    def task(wait: timedelta, data: bytes, ids: set[int], name: str = "default") -> str:
        return f"{wait.total_seconds()} {data!r} {sorted(ids)} {name}"

    job = run(app, conn, task.enqueue(timedelta(minutes=1), b"\x00\xff", {2, 1}))
    assert job.result == "60.0 b'\\x00\\xff' [1, 2] default"


def test_the_context_tells_what_job_runs(app: App, conn: Conn) -> None:
    seen: list[Context] = []

    @app.task(name="task", queue="mail", max_attempts=2, tags=["a"])
    def task(ctx: Context, n: int) -> None:
        seen.append(ctx)

    job = task.using(tags=["b", "c"]).enqueue(n=1)
    conn.execute("update pgqueue.job_live set headers = '{\"x\": 1}'")
    drain(app, conn, queues=["mail"])
    (ctx,) = seen
    assert (ctx.job_id, ctx.task, ctx.queue, ctx.tags, ctx.headers) == (job.id, "task", "mail", ("b", "c"), {"x": 1})
    assert (ctx.attempt, ctx.max_attempts, ctx.is_last_attempt) == (1, 2, False)
    assert (ctx.run_at, ctx.created_at) == (job.run_at, job.created_at)
    assert repr(ctx) == f"<Context of job {job.id} task, attempt 1 of 2>"


def test_a_failing_job_is_retried_by_its_delays_and_then_becomes_a_dead_letter(app: App, conn: Conn) -> None:
    @app.task(retry=[0.01, 0.01])
    def task(ctx: Context) -> None:
        raise ValueError(f"attempt {ctx.attempt}, last: {ctx.is_last_attempt}")

    job = run(app, conn, task.enqueue())
    messages = ["attempt 1, last: False", "attempt 2, last: False", "attempt 3, last: True"]
    assert (job.state, job.reason, job.attempt) == ("failed", "exhausted", 3)
    assert [(error.type, error.message) for error in job.errors] == [("ValueError", message) for message in messages]
    logged = "select error->>'message' from pgqueue.transition where error is not null order by at"
    assert [row[0] for row in conn.execute(logged).fetchall()] == messages
    assert scalar(conn, "select error->>'message' from pgqueue.dead_letter") == messages[-1]


def test_the_traceback_of_an_attempt_is_kept(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise ValueError from KeyError("the cause")

    traceback = run(app, conn, task.enqueue()).errors[0].traceback
    assert traceback is not None
    assert "KeyError: 'the cause'" in traceback
    assert "in task" in traceback


def test_an_error_that_retry_on_does_not_name_is_not_retried(app: App, conn: Conn) -> None:
    @app.task(retry=[0.01], retry_on=OSError)
    def task() -> None:
        raise ValueError

    job = run(app, conn, task.enqueue())
    assert (job.state, job.reason, job.attempt) == ("failed", "not retried", 1)


def test_an_error_that_retry_on_names_is_retried(app: App, conn: Conn) -> None:
    @app.task(retry=[0.01], retry_on=(OSError, KeyError))
    def task() -> None:
        raise FileNotFoundError

    job = run(app, conn, task.enqueue())
    assert (job.reason, job.attempt) == ("exhausted", 2)


def test_no_retry_on_wins_over_retry_on(app: App, conn: Conn) -> None:
    @app.task(retry=[0.01], retry_on=OSError, no_retry_on=FileNotFoundError)
    def task() -> None:
        raise FileNotFoundError

    job = run(app, conn, task.enqueue())
    assert (job.reason, job.attempt) == ("not retried", 1)


def test_retry_runs_the_job_again_after_its_own_delay(app: App, conn: Conn) -> None:
    @app.task(retry=3600, max_attempts=3)
    async def task(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise Retry("busy", delay=0.01)
        return ctx.attempt

    job = run(app, conn, task.enqueue())
    assert (job.state, job.result) == ("succeeded", 2)
    assert job.errors[0].message == "busy"


def test_retry_on_the_last_attempt_makes_a_dead_letter(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise Retry("busy", delay=0.01)

    job = run(app, conn, task.enqueue())
    assert (job.state, job.reason, job.errors[0].message) == ("failed", "exhausted", "busy")


def test_retry_from_an_error_keeps_the_cause(app: App, conn: Conn) -> None:
    @app.task(max_attempts=1)
    def task() -> None:
        raise Retry from ValueError("the cause")

    assert run(app, conn, task.enqueue()).errors[0].message == "the cause"


def test_snooze_runs_the_job_again_under_a_new_lease_without_charging_the_attempt(app: App, conn: Conn) -> None:
    attempts: list[int] = []

    @app.task(max_attempts=1)
    async def task(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 3:
            raise Snooze(0.01, "not yet")

    job = run(app, conn, task.enqueue())
    assert (job.state, job.attempt, attempts) == ("succeeded", 1, [1, 1, 1])
    assert scalar(conn, "select lease from pgqueue.job") == 3
    assert ("pending", "not yet") in moves(conn, job.id)


def test_fail_makes_a_dead_letter_however_many_attempts_are_left(app: App, conn: Conn) -> None:
    @app.task(max_attempts=5)
    def task() -> None:
        raise Fail("no such order")

    job = run(app, conn, task.enqueue())
    assert (job.state, job.reason, job.attempt) == ("failed", "rejected", 1)
    assert job.errors[0].message == "no such order"


def test_cancel_ends_a_job_as_cancelled(app: App, conn: Conn) -> None:
    @app.task
    async def task() -> None:
        raise Cancel("no longer wanted")

    job = run(app, conn, task.enqueue())
    assert (job.state, job.reason, job.errors) == ("cancelled", "no longer wanted", [])


@pytest.mark.parametrize("args", [{"n": "many"}, {"unknown": 2}, {}], ids=["type", "unknown", "missing"])
def test_arguments_that_do_not_fit_make_a_dead_letter_at_once(app: App, conn: Conn, args: dict[str, Any]) -> None:
    @app.task(name="task", max_attempts=5)
    def task(n: int) -> None: ...

    job = insert_job(conn, task="task", args=json.dumps(args))
    drain(app, conn)
    dead = app.get(job)
    assert (dead.state, dead.reason, dead.attempt) == ("failed", "invalid arguments", 1)
    assert "ValidationError" in dead.errors[0].type


def test_a_job_of_an_unknown_task_is_parked_uncharged_and_holds_up_no_other(app: App, conn: Conn) -> None:
    @app.task
    def known() -> None: ...

    unknown = app.using(priority=100).enqueue("unknown", {"a": 1})
    job = run(app, conn, known.enqueue(), concurrency=1)
    parked = app.get(unknown.id)
    assert job.state == "succeeded"
    assert (parked.state, parked.waits_for, parked.attempt, parked.errors) == ("blocked", "task", 0, [])


def test_a_parked_job_is_adopted_by_a_worker_that_knows_its_task(app: App, conn: Conn, dsn: str) -> None:
    job = app.enqueue("later", {"n": 2})
    drain(app, conn)
    assert app.get(job.id).state == "blocked"
    newer = App(dsn)

    @newer.task(name="later")
    def later(ctx: Context, n: int) -> list[int]:
        return [n, ctx.attempt]

    asyncio.run(work(newer, lambda: scalar(conn, "select count(*) = 0 from pgqueue.job_live")))
    assert app.get(job.id).result == [2, 1]


def test_a_parked_job_is_left_alone_by_a_worker_of_another_queue(app: App, conn: Conn, dsn: str) -> None:
    job = app.enqueue("later")
    drain(app, conn)
    newer = App(dsn)

    @newer.task(name="later")
    def later() -> None: ...

    marker = newer.using(queue="other").enqueue("later")
    asyncio.run(work(newer, lambda: scalar(conn, "select count(*) from pgqueue.job_finished") == 1, queues=["other"]))
    assert app.get(marker.id).state == "succeeded"
    assert app.get(job.id).state == "blocked"
    newer.close()


class Gauge:
    """Counts the jobs that run at the same time, in all and by name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def enter(self, name: str) -> None:
        with self._lock:
            for key in ("all", name):
                self._now[key] += 1
                self.most[key] = max(self.most[key], self._now[key])

    def leave(self, name: str) -> None:
        with self._lock:
            for key in ("all", name):
                self._now[key] -= 1

    @property
    def now(self) -> int:
        with self._lock:
            return self._now["all"]


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_no_more_jobs_run_at_a_time_than_the_concurrency_allows(app: App, conn: Conn, kind: str) -> None:
    gauge = Gauge()
    full = threading.Event()

    @app.task(name="sync")
    def sync_task() -> None:
        gauge.enter("x")
        if gauge.now == 3:
            full.set()
        full.wait(10)
        gauge.leave("x")

    @app.task(name="async")
    async def async_task() -> None:
        gauge.enter("x")
        for _ in range(5):
            await asyncio.sleep(0)
        gauge.leave("x")

    (async_task if kind == "async" else sync_task).enqueue_many({} for _ in range(60))
    drain(app, conn, concurrency=3)
    assert gauge.most["all"] == 3
    assert scalar(conn, "select count(*) from pgqueue.job_finished") == 60


def limited(app: App, gauge: Gauge) -> None:
    @app.task(name="limited")
    async def task(ctx: Context) -> None:
        gauge.enter(ctx.queue)
        await asyncio.sleep(0.005)
        gauge.leave(ctx.queue)


def test_no_more_jobs_of_a_queue_run_at_a_time_than_its_limit(app: App, conn: Conn) -> None:
    gauge = Gauge()
    limited(app, gauge)
    for queue in ("bulk", "fast"):
        app.using(queue=queue).enqueue("limited")
        conn.execute(
            "insert into pgqueue.job_live (task, queue) select 'limited', %s from generate_series(1, 30)", (queue,)
        )
    drain(app, conn, queues=["bulk", "fast"], concurrency=6, limits={"bulk": 2})
    assert gauge.most["bulk"] == 2
    assert gauge.most["fast"] >= 4
    assert gauge.most["all"] <= 6


def test_the_limit_of_a_queue_holds_for_parked_jobs_too(app: App, conn: Conn) -> None:
    gauge = Gauge()
    limited(app, gauge)
    for _ in range(10):
        insert_job(conn, task="limited", queue="bulk", state="blocked", waits_for="task")
    finished = "select count(*) = 10 from pgqueue.job_finished"
    asyncio.run(
        work(
            app,
            lambda: scalar(conn, finished),
            queues=["bulk", "fast"],
            concurrency=8,
            poll_seconds=0.1,
            limits={"bulk": 2},
        )
    )
    assert gauge.most["bulk"] == 2
