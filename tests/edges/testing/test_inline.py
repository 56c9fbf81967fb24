"""Jobs that run when they are enqueued, or one at a time; waits in a test, which read once."""

import asyncio
from datetime import UTC, date, datetime
from typing import Any

import pytest

from pgqueue import App, InvalidArguments, JobFailed, UnknownJob, WaitTimeout
from pgqueue.testing import Jobs
from tests.edges.testing.looks import moves


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
    assert asyncio.run(job.await_result(1e-6)) == 2  # the time is up, but the job has ended
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
    app.close()  # as a framework does when it stops: there is nothing to close


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
    assert jobs.run(later.id).attempt == 1  # the job has ended: nothing happens
    jobs.assert_enqueued(t, count=1)
    with pytest.raises(UnknownJob):
        jobs.run(12345)
