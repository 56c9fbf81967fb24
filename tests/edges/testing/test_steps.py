"""Durable steps in a test: a drain travels through sleeps and timeouts, and a test sends signals."""

import asyncio
from typing import Any

import pytest

from pgqueue import App, CallFailed, ConfigError, Context, JobFilter
from pgqueue.testing import Jobs, context


def test_a_month_of_sleep_passes_by_time_travel(app: App, jobs: Jobs) -> None:
    calls: list[str] = []

    @app.task(max_attempts=1)
    def trial(ctx: Context) -> str:
        ctx.step("welcome", calls.append, "welcome")
        ctx.sleep("trial", days=30)
        ctx.step("remind", calls.append, "remind")
        return "over"

    job, began = trial.enqueue(), jobs.now()
    assert jobs.drain().snoozed == 1
    assert calls == ["welcome"]
    jobs.travel(days=29)
    assert jobs.drain().total == 0
    assert app.get(job.id).phase == "sleeping"
    assert [one.id for one in app.jobs.list(JobFilter(state="sleeping"))] == [job.id]
    assert jobs.drain(with_scheduled=True).succeeded == 1
    assert app.get(job.id).result == "over"
    assert calls == ["welcome", "remind"]
    assert 30 <= (jobs.now() - began).total_seconds() / 86_400 < 30.01


def test_a_drain_stops_where_a_job_waits_and_goes_on_after_the_signal(app: App, jobs: Jobs) -> None:
    @app.task(max_attempts=1)
    async def approve(ctx: Context) -> Any:
        return await ctx.await_signal("approved")

    job = approve.enqueue()
    assert jobs.drain(with_scheduled=True).total == 1
    assert app.get(job.id).phase == "waiting"
    app.signal(job.id, "approved", {"by": "ann"})
    assert app.get(job.id).phase == "waiting"  # until a worker has delivered it
    assert jobs.drain().succeeded == 1
    assert app.get(job.id).result == {"by": "ann"}


def test_a_timeout_passes_by_time_travel(app: App, jobs: Jobs) -> None:
    @app.task(max_attempts=1)
    async def pay(ctx: Context) -> Any:
        return await asyncio.gather(
            ctx.await_event("payment", key="7", timeout=86_400), ctx.await_signal("call", timeout=3600)
        )

    job = pay.enqueue()
    jobs.travel(minutes=5)
    app.signal_event("payment", key="7", data=5)
    jobs.drain(with_scheduled=True)
    assert app.get(job.id).result == [5, None]


def test_a_unit_test_calls_a_task_with_steps_in_memory(app: App) -> None:
    @app.task
    async def pay(ctx: Context) -> list[Any]:
        await ctx.asleep("nap", days=3)
        return [
            await ctx.astep("n", int, "7"), await ctx.await_signal("call"), await ctx.await_event("payment", key="7"),
        ]  # fmt: skip

    assert asyncio.run(pay(context(pay, sent={"call": 1}))) == [7, 1, None]  # type: ignore[arg-type]


def test_a_drain_runs_a_job_with_those_that_it_calls(app: App, jobs: Jobs) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task(max_attempts=1)
    def bad() -> int:
        raise ValueError

    @app.task(max_attempts=1)
    async def total(ctx: Context) -> Any:
        found = await ctx.agather("doubles", [double.s(n) for n in range(3)])
        found.append(await ctx.acall("chain", double.s(5) | double.s()))
        try:
            await ctx.acall("bad", bad.s())
        except CallFailed as error:
            found.append(error.step)
        return found

    job = total.enqueue()
    jobs.drain()
    assert app.get(job.id).result == [0, 2, 4, 20, "bad"]


def test_calls_run_at_once_in_a_test_that_runs_jobs_inline(app: App, jobs: Jobs) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task(max_attempts=1)
    def total(ctx: Context) -> list[Any]:
        return [ctx.call("one", double.s(1)), ctx.gather("more", [double.s(2), double.s(3) | double.s()])]

    @app.task(max_attempts=1)
    async def atotal(ctx: Context) -> list[int]:
        return await ctx.agather("more", [double.s(2), double.s(3)])

    with jobs.inline():
        assert total.enqueue().result == [2, [4, 12]]
        assert atotal.enqueue().result == [4, 6]


def test_called_jobs_end_with_their_caller_in_a_drain(app: App, jobs: Jobs) -> None:
    @app.task(queue="other")
    def inner() -> None: ...

    @app.task
    def caller(ctx: Context) -> None:
        ctx.call("inner", inner.s())

    job = caller.enqueue()
    jobs.drain(queues=["default"])
    app.cancel(job.id)
    jobs.drain(queues=["default"])
    assert jobs.assert_enqueued(inner, state="cancelled").reason == "its caller has ended"


def test_a_published_event_wakes_a_job_in_a_drain(app: App, jobs: Jobs) -> None:
    @app.task(max_attempts=1)
    def order(ctx: Context) -> Any:
        return [ctx.wait_event("payment", key=7), ctx.wait_event("payment", key=7)]

    job = order.enqueue()
    app.publish("payment", {"n": 1}, key=7)
    jobs.drain()
    app.publish("payment", {"n": 2}, key=7)
    jobs.drain()
    assert app.get(job.id).result == [{"n": 1}, {"n": 2}]


def test_a_unit_test_gives_what_calls_return(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task
    def total(ctx: Context) -> list[Any]:
        return [ctx.call("one", double.s(1)), ctx.gather("more", [double.s(2), double.s(3)])]

    assert total(context(total, sent={"one": 5, "more": [6, 7]})) == [5, [6, 7]]
    with pytest.raises(ConfigError, match="step 'more' makes 2 calls, and the test gives 1 results"):
        total(context(total, sent={"one": 5, "more": [6]}))
    with pytest.raises(ConfigError, match="step 'one' calls a task: give its result"):
        total(context(total))
