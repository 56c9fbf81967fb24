"""A tick while the job of an earlier one is not finished, with real jobs."""

from datetime import datetime
from typing import Any

import pytest

from pgqueue import App
from tests.conftest import drain, scalar
from tests.harness import Conn
from tests.scheduler.ticking import HOURLY_CRON, due, fire, outcomes, run_scheduler, ticks


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def overlapping(app: App, conn: Conn, dsn: str, **options: Any) -> list[str]:
    """Fire twice, an hour apart, while no worker runs; return the outcomes."""
    app.schedules.create("s", "report", HOURLY_CRON, **options)
    first = due(conn, hours=1)
    conn.execute("update pgqueue.schedule set misfire = 'all(9)', at = null")
    fire(app, dsn)
    assert ticks(conn)[0][0] == first
    return outcomes(conn)


def test_allow_lets_jobs_pile_up(report: App, conn: Conn, dsn: str) -> None:
    assert overlapping(report, conn, dsn) == ["fired", "fired"]


def test_skip_leaves_a_tick_out_while_an_earlier_job_is_not_finished(report: App, conn: Conn, dsn: str) -> None:
    assert overlapping(report, conn, dsn, overlap="skip") == ["fired", "skipped"]
    drain(report, conn, queues=["reports"])
    due(conn)
    conn.execute("delete from pgqueue.schedule_fire where outcome = 'skipped'")
    fire(report, dsn)
    assert outcomes(conn) == ["fired", "fired"]


def test_queue_lets_a_tick_wait_for_the_earlier_job(report: App, conn: Conn, dsn: str) -> None:
    assert overlapping(report, conn, dsn, overlap="queue") == ["fired", "queued"]
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    conn.execute("update pgqueue.schedule set look_at = clock_timestamp()")
    fire(report, dsn)
    assert outcomes(conn) == ["fired", "queued"]
    drain(report, conn, queues=["reports"])
    conn.execute("update pgqueue.schedule set look_at = clock_timestamp()")
    fire(report, dsn)
    assert outcomes(conn) == ["fired", "fired"]
    jobs = conn.execute("select headers->>'tick' from pgqueue.job order by id").fetchall()
    assert [datetime.fromisoformat(tick) for (tick,) in jobs] == [tick for tick, _, _ in ticks(conn)]
    assert scalar(conn, "select look_at from pgqueue.schedule") is None


def test_a_queue_that_waits_is_looked_at_by_polling(report: App, conn: Conn) -> None:
    report.schedules.create("s", "report", HOURLY_CRON, overlap="queue", misfire="all(9)")
    due(conn, hours=1)

    def ended() -> bool:
        conn.execute("delete from pgqueue.job_live")  # as a worker would write it
        return bool(scalar(conn, "select count(*) = 2 from pgqueue.schedule_fire where outcome = 'fired'"))

    run_scheduler(report, ended)


def test_cancel_running_cancels_the_earlier_job(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", HOURLY_CRON, overlap="cancel_running")
    due(conn, hours=1)
    conn.execute("update pgqueue.schedule set ends_at = next_tick")
    fire(report, dsn)
    conn.execute("update pgqueue.schedule set ends_at = null")
    due(conn)
    fire(report, dsn)
    assert outcomes(conn) == ["fired", "fired"]
    states = conn.execute("select state, reason from pgqueue.job order by id").fetchall()
    assert states == [("cancelled", "a later tick of its schedule takes its place"), ("pending", None)]


def test_a_manual_run_counts_as_running(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", HOURLY_CRON, overlap="skip")
    report.schedules.run("s")
    due(conn)
    fire(report, dsn)
    assert sorted(outcomes(conn)) == ["fired", "skipped"]


def test_one_schedule_whose_job_cannot_be_inserted_holds_up_no_other(report: App, conn: Conn, dsn: str) -> None:
    for name in ("good", "bad", "fine"):
        report.schedules.create(name, name, HOURLY_CRON)
    due(conn)
    conn.execute("alter table pgqueue.job_live add constraint spoilt check (task <> 'bad')")
    try:
        run_scheduler(report, lambda: scalar(conn, "select count(*) = 2 from pgqueue.schedule_fire"))
    finally:
        conn.execute("alter table pgqueue.job_live drop constraint spoilt")
    states = {one.name: one.state for one in report.schedules.list()}
    assert states == {"good": "active", "bad": "broken", "fine": "active"}
    assert "spoilt" in (report.schedules.get("bad").error or "")
    assert fire(report, dsn) == 1
    assert report.schedules.get("bad").state == "active"
