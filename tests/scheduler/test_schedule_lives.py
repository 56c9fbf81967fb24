"""The life of a schedule: it fires, pauses, catches up by its policy, ends."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from pgqueue import App, Context
from tests.conftest import drain, scalar
from tests.harness import Conn
from tests.scheduler.ticking import HOURLY, HOURLY_CRON, due, fire, next_tick, now, outcomes, ticks

DAY = timedelta(days=1)


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def test_a_schedule_that_is_made_at_run_time_fires(report: App, conn: Conn, dsn: str) -> None:
    made = report.schedules.create("s", "report", HOURLY_CRON, args={"day": 3}, priority=5, by="ann")
    assert (made.state, made.plan, made.task, made.edited_by) == ("active", HOURLY_CRON, "report", "ann")
    assert made.next_tick == HOURLY.after(now(conn))
    due(conn)
    fire(report, dsn)
    job = report.get(ticks_job(conn))
    assert (job.task, job.args, job.queue, job.priority, job.tags) == ("report", {"day": 3}, "reports", 5, ("r",))


def ticks_job(conn: Conn) -> int:
    return int(scalar(conn, "select max(job_id) from pgqueue.schedule_fire"))


def test_a_paused_schedule_is_caught_up_as_it_is_resumed(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", HOURLY_CRON)
    paused = report.schedules.pause("s", by="ann")
    assert (paused.state, paused.paused_by) == ("paused", "ann")
    first = due(conn, hours=2)
    conn.execute("update pgqueue.schedule set paused_at = %s", (first - timedelta(minutes=1),))
    assert fire(report, dsn) == 0
    report.schedules.resume("s", catch_up="once")
    fire(report, dsn)
    assert outcomes(conn) == ["skipped", "skipped", "fired"]
    assert scalar(conn, "select min(reason) from pgqueue.schedule_fire") == "paused by ann"
    assert next_tick(conn) == first + timedelta(hours=3)


def test_a_pause_with_an_end_ends_by_itself(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", HOURLY_CRON)
    report.schedules.pause("s", until=now(conn) + DAY, catch_up="all(2)")
    first = due(conn, hours=2)
    conn.execute(
        "update pgqueue.schedule set paused_at = %s, paused_until = clock_timestamp()", (first - timedelta(minutes=1),)
    )
    fire(report, dsn)
    assert outcomes(conn) == ["skipped", "fired", "fired"]
    assert report.schedules.get("s").state == "active"


def test_fire_now_makes_a_job_that_knows_its_moment(report: App, conn: Conn) -> None:
    seen: list[datetime | None] = []

    @report.task(name="knows")
    def knows(ctx: Context) -> None:
        seen.append(ctx.tick)

    report.schedules.create("s", "knows", "@yearly")
    report.schedules.pause("s")
    job = report.schedules.run("s", by="ann")
    (tick,) = report.schedules.ticks("s")
    assert (tick.outcome, tick.job_id, tick.by) == ("fired", job.id, "ann")
    assert report.schedules.get("s").state == "paused"
    drain(report, conn)
    assert seen == [tick.tick]


def test_a_job_of_no_schedule_has_no_tick(report: App, conn: Conn) -> None:
    seen: list[datetime | None] = []

    @report.task(name="knows")
    def knows(ctx: Context) -> None:
        seen.append(ctx.tick)

    knows.enqueue()
    drain(report, conn)
    assert seen == [None]


def test_what_became_of_the_ticks_of_a_deleted_schedule_stays(report: App, conn: Conn) -> None:
    report.schedules.create("s", "report", 60)
    report.schedules.run("s")
    report.schedules.delete("s")
    assert outcomes(conn) == ["fired"]
    assert report.schedules.list() == []


def test_a_one_shot_fires_once_and_is_over(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", at=now(conn) + DAY)
    due(conn)
    conn.execute("update pgqueue.schedule set at = next_tick")
    fire(report, dsn)
    assert outcomes(conn) == ["fired"]
    assert report.schedules.get("s").state == "over"
    assert fire(report, dsn) == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["missed", "missed", "fired"]),
        ({"misfire": "once", "grace": 7200}, ["missed", "missed", "fired"]),
        ({"misfire": "skip", "grace": 0}, ["missed", "missed", "missed"]),
        ({"misfire": "all(2)"}, ["missed", "fired", "fired"]),
        ({"misfire": "all"}, ["fired", "fired", "fired"]),
    ],
    ids=str,
)
def test_a_scheduler_that_was_down_over_three_ticks_goes_on_by_the_policy(
    report: App, conn: Conn, dsn: str, options: dict[str, Any], expected: list[str]
) -> None:
    report.schedules.create("s", "report", HOURLY_CRON, **options)
    first = due(conn, hours=2)
    fire(report, dsn)
    assert [(tick, outcome) for tick, outcome, _ in ticks(conn)] == [
        (first + timedelta(hours=n), outcome) for n, outcome in enumerate(expected)
    ]
    jobs = conn.execute("select (headers->>'tick')::timestamptz from pgqueue.job order by id").fetchall()
    assert [tick for (tick,) in jobs] == [tick for tick, outcome, _ in ticks(conn) if outcome == "fired"]
    assert next_tick(conn) == first + timedelta(hours=3)
