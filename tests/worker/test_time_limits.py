"""Timeouts, soft limits, and how a context shows them."""

import asyncio
import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pgqueue import App, Context, InvalidOption, TaskOptions, ThreadTimeoutWarning, TimedOut
from tests.conftest import drain, scalar
from tests.harness import Conn


def test_an_async_task_over_its_timeout_is_cancelled_and_tried_again(app: App, conn: Conn) -> None:
    runs = []

    @app.task(timeout=0.1, retry=[0.01], name="slow")
    async def slow() -> None:
        runs.append(1)
        if len(runs) == 1:
            await asyncio.Event().wait()

    job = slow.enqueue()
    drain(app, conn)
    done = app.get(job.id)
    assert (done.state, done.attempt) == ("succeeded", 2)
    assert done.attempts[0].reason == "timeout"
    assert done.errors[0].type == "pgqueue.TimedOut"
    assert "0.1 s" in done.errors[0].message


def test_a_timeout_on_the_last_attempt_makes_a_dead_letter(app: App, conn: Conn) -> None:
    @app.task(timeout=0.05, max_attempts=1, name="slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    slow.enqueue()
    drain(app, conn)
    assert scalar(conn, "select error->>'type' from pgqueue.dead_letter") == "pgqueue.TimedOut"


def test_a_timeout_error_of_the_task_itself_is_an_ordinary_error(app: App, conn: Conn) -> None:
    @app.task(timeout=30, max_attempts=1, name="own")
    async def own() -> None:
        raise TimeoutError("the other side did not answer")

    job = own.enqueue()
    drain(app, conn)
    assert app.get(job.id).errors[0].type == "TimeoutError"


def test_retry_on_does_not_exclude_timeouts_and_no_retry_on_may(app: App, conn: Conn) -> None:
    @app.task(timeout=0.05, retry=[0.01], retry_on=ConnectionError, name="again")
    async def again() -> None:
        await asyncio.Event().wait()

    @app.task(timeout=0.05, retry=[0.01], no_retry_on=TimedOut, name="never")
    async def never() -> None:
        await asyncio.Event().wait()

    first, second = again.enqueue(), never.enqueue()
    drain(app, conn)
    assert (app.get(first.id).attempt, app.get(second.id).attempt) == (2, 1)


def test_a_task_in_a_thread_is_warned_of_at_registration_and_gets_a_soft_limit(app: App, conn: Conn) -> None:
    with pytest.warns(ThreadTimeoutWarning, match="cannot be stopped"):

        @app.task(timeout=0.05, max_attempts=1, name="thread")
        def thread(ctx: Context) -> None:
            while True:
                ctx.check()
                threading.Event().wait(0.005)

    job = thread.enqueue()
    drain(app, conn)
    assert app.get(job.id).attempts[0].state == "failed"
    assert app.get(job.id).errors[0].type == "pgqueue.TimedOut"


def test_a_task_in_a_thread_is_told_of_its_soft_limit_where_it_looks(app: App, conn: Conn) -> None:
    @app.task(soft_timeout=0.05, retry=[0], name="thread")
    def thread(ctx: Context) -> None:
        while True:
            ctx.check()
            threading.Event().wait(0.005)

    job = thread.enqueue()
    drain(app, conn)
    assert [attempt.reason for attempt in app.get(job.id).attempts] == ["soft timeout", "exhausted"]
    assert app.get(job.id).errors[0].type == "pgqueue.SoftTimeout"


def test_an_async_task_is_cancelled_at_its_soft_limit_and_may_clean_up(app: App, conn: Conn) -> None:
    @app.task(soft_timeout=0.05, timeout=60, max_attempts=1, name="cleans up")
    async def cleans_up(ctx: Context) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # the worker cancels it once, so it may await
        return f"{ctx.remaining:.0f} s are left"

    @app.task(soft_timeout=0.05, retry=[0], name="ends")
    async def ends() -> None:
        await asyncio.Event().wait()

    @app.task(soft_timeout=0.05, timeout=0.2, retry=[0], name="hangs")
    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    jobs = [cleans_up.enqueue(), ends.enqueue(), hangs.enqueue()]
    drain(app, conn)
    one, two, three = (app.get(job.id) for job in jobs)
    assert (one.state, one.result) == ("succeeded", "-0 s are left")
    assert [(end.reason, end.error and end.error.type) for end in (*two.attempts, *three.attempts)] == [
        ("soft timeout", "pgqueue.SoftTimeout"), ("exhausted", "pgqueue.SoftTimeout"),
        ("timeout", "pgqueue.TimedOut"), ("exhausted", "pgqueue.TimedOut"),
    ]  # fmt: skip
    counted = conn.execute("select reason, count(*) from pgqueue.transition where reason like '%timeout' group by 1")
    assert dict(counted.fetchall()) == {"soft timeout": 1, "timeout": 1}


def hold() -> str:
    threading.Event().wait()
    return "never"


def clean_up(ctx: Context) -> str:
    try:
        return hold()
    except TimedOut:
        return f"cleaned up, {ctx.remaining:.0f} s are left"


async def hold_async() -> str:
    await asyncio.Event().wait()
    return "never"


async def clean_up_async(ctx: Context) -> str:
    try:
        return await hold_async()
    except asyncio.CancelledError:
        return f"cleaned up, {ctx.remaining:.0f} s are left"


def query(ctx: Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("select pg_sleep(60)")


@pytest.mark.parametrize("task", [hold, hold_async, query])
def test_a_soft_limit_is_raised_in_a_child_process_and_the_policy_tries_again(
    app: App, conn: Conn, task: Callable[..., object]
) -> None:
    app.task(isolation="process", timeout=60, soft_timeout=0.2, retry=[0], name="held")(task)
    job = app.enqueue("held")
    drain(app, conn)
    done = app.get(job.id)
    assert [attempt.reason for attempt in done.attempts] == ["soft timeout", "exhausted"]
    assert [(error.type, error.message) for error in done.errors] == [
        ("pgqueue.SoftTimeout", "the soft limit of 0.2 s has passed")
    ] * 2
    assert done.crash_count == 0


@pytest.mark.parametrize("task", [clean_up, clean_up_async])
def test_a_task_in_a_child_process_may_clean_up_at_its_soft_limit(
    app: App, conn: Conn, task: Callable[..., str]
) -> None:
    app.task(isolation="process", timeout=60, soft_timeout=0.2, max_attempts=1, name="held")(task)
    app.task(isolation="process", name="next")(lambda: "not interrupted")
    job, following = app.enqueue("held"), app.enqueue("next")
    drain(app, conn, concurrency=1)
    assert app.get(job.id).result == "cleaned up, -0 s are left"
    assert app.get(following.id).result == "not interrupted"


def gives_up() -> None:
    try:
        hold()
    except TimedOut:
        raise LookupError("the shop is closed") from None


def test_what_a_task_in_a_child_process_raises_at_its_soft_limit_is_its_own(app: App, conn: Conn) -> None:
    app.task(isolation="process", timeout=60, soft_timeout=0.2, no_retry_on=(LookupError,), name="held")(gives_up)
    job = app.enqueue("held")
    drain(app, conn)
    assert [(error.type, error.message) for error in app.get(job.id).errors] == [("LookupError", "the shop is closed")]
    assert [attempt.reason for attempt in app.get(job.id).attempts] == ["not retried"]


def test_the_context_tells_how_much_time_is_left(app: App, conn: Conn) -> None:
    seen = []

    @app.task(timeout=60, soft_timeout=30, name="limited")
    async def limited(ctx: Context) -> None:
        assert ctx.remaining is not None
        assert ctx.deadline is not None
        seen.append((29 < ctx.remaining <= 30, 28 < (ctx.deadline - datetime.now(UTC)).total_seconds() <= 30))

    @app.task(name="unlimited")
    async def unlimited(ctx: Context) -> None:
        ctx.check()
        seen.append((ctx.remaining, ctx.deadline))

    limited.enqueue()
    drain(app, conn)
    unlimited.enqueue()
    drain(app, conn)
    assert seen == [(True, True), (None, None)]


@pytest.mark.parametrize("limit", [0, -1, float("nan"), 1e12, "soon", True])
def test_a_limit_that_is_no_duration_is_refused(app: App, limit: float) -> None:
    with pytest.raises(InvalidOption, match=r"give .*seconds"):
        app.task(timeout=limit)


def test_the_limits_of_the_app_are_those_of_tasks_that_have_none(dsn: str, conn: Conn) -> None:
    app = App(dsn, timeout=0.1, max_attempts=1)

    @app.task(name="slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    job = slow.enqueue()
    drain(app, conn)
    assert app.get(job.id).errors[0].type == "pgqueue.TimedOut"
    app.close()


def test_an_app_may_limit_tasks_in_threads_without_a_warning_for_each() -> None:
    app = App(timeout=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ThreadTimeoutWarning)
        app.task(name="thread")(lambda: None)
    assert app.tasks["thread"].soft_limit == 60


@pytest.mark.parametrize(
    ("task", "timeout", "soft"),
    [
        ({}, 60, 30),
        ({"timeout": 10}, 10, None),  # the app's soft limit lies beyond it
        ({"timeout": 600}, 600, 30),
        ({"soft_timeout": 5}, 60, 5),
    ],
)
def test_a_limit_of_a_task_goes_before_that_of_the_app(task: TaskOptions, timeout: float, soft: float | None) -> None:
    app = App(timeout=60, soft_timeout=30)

    async def t() -> None: ...

    app.task(name="t", **task)(t)
    spec = app.tasks["t"]
    assert (spec.timeout, spec.soft_timeout) == (timeout, soft)


@pytest.mark.parametrize("option", ["timeout", "soft_timeout"])
def test_a_limit_of_the_app_that_is_no_duration_is_refused(option: str) -> None:
    with pytest.raises(InvalidOption, match=option):
        App(**{option: -1})
