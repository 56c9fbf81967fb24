"""Durable steps in a test: a drain travels through sleeps and timeouts, and a test sends signals."""

import asyncio
from typing import Any

from pgqueue import App, Context
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
    app.signal(job.id, "approved", {"by": "ann"})
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
