"""Travelling in time: jobs that are due later, and schedules."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from pgqueue import App, ConfigError, Context, InvalidOption
from pgqueue.testing import Jobs, rolled_back
from tests.conftest import scalar
from tests.harness import Conn


def test_travelling_moves_run_at_retries_and_snoozes(app: App, conn: Conn, jobs: Jobs) -> None:
    runs: list[int] = []

    @app.task(retry=[10_000, 100_000])
    def t() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError

    start = jobs.now()
    job = t.using(delay=5000).enqueue()
    assert (jobs.drain().total, app.get(job.id).phase) == (0, "scheduled")
    jobs.travel(4900)
    assert jobs.drain().total == 0
    jobs.travel(timedelta(seconds=200))
    assert app.get(job.id).phase == "pending"
    assert jobs.drain().retried == 1
    jobs.travel(seconds=10_100)
    assert jobs.drain().retried == 1
    jobs.travel(minutes=1500)
    assert jobs.drain().total == 0
    jobs.travel(hours=100)
    assert jobs.drain().succeeded == 1
    seen = app.get(job.id)
    times = [job.created_at, *[t for a in seen.attempts for t in (a.started_at, a.ended_at)]]
    assert times == sorted(times)
    started = [(a.started_at - start).total_seconds() for a in seen.attempts]
    assert started == pytest.approx([5100, 15_200, 465_200], abs=30)
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
        ticks.append(datetime.fromisoformat(ctx.headers["tick"]).astimezone(UTC).isoformat())

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
