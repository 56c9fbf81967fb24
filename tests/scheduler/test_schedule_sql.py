"""Schedules from SQL: created, edited, paused and run by functions, by a role that may do nothing else."""

from typing import Any

import psycopg
import pytest

from pgqueue import App
from tests.conftest import scalar
from tests.harness import Conn
from tests.scheduler.ticking import HOURLY, HOURLY_CRON, due, fire, next_tick, now, outcomes, run_scheduler, ticks


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


def call(conn: Conn, statement: str, *params: Any) -> Any:
    return scalar(conn, f"select pgqueue.{statement}", *params)


def test_sql_makes_a_schedule_that_fires(report: App, conn: Conn, dsn: str) -> None:
    plan = f'{{"cron": "{HOURLY_CRON}", "args": {{"day": 4}}, "queue": "bulk"}}'
    call(conn, "schedule_create('s', 'report', %s::jsonb)", plan)
    assert report.schedules.get("s").state == "active"
    conn.execute("update pgqueue.schedule set replan_from = replan_from - interval '1 hour'")
    fire(report, dsn)
    assert outcomes(conn) == ["fired"]
    assert scalar(conn, "select queue || (args->>'day') from pgqueue.job") == "bulk4"
    assert next_tick(conn) == HOURLY.after(now(conn))


def test_sql_edits_as_of_the_moment_it_asks(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", HOURLY_CRON)
    first = due(conn)
    call(conn, """schedule_edit('s', '{"every_seconds": 86400}', by => 'ann')""")
    call(conn, """schedule_edit('s', '{"queue": "bulk"}', by => 'bob')""")
    fire(report, dsn)
    said = report.schedules.get("s")
    assert (said.plan, said.edited_by, said.state) == ("every 86400 s", "bob", "active")
    assert report.schedules.definition("s").job.queue == "bulk"
    assert [(tick, outcome) for tick, outcome, _ in ticks(conn)] == [(first, "missed")]
    assert fire(report, dsn) == 1
    assert scalar(conn, "select look_at from pgqueue.schedule") is None


@pytest.mark.parametrize(
    "change",
    ['"cron": "61 * * * *"', '"priority": 1000', '"args": 5', '"tags": "x"', '"ends_at": "soon"', '"queue": " "'],
)  # fmt: skip
def test_an_edit_by_sql_that_cannot_be_used_is_given_up_and_shown(
    report: App, conn: Conn, dsn: str, change: str
) -> None:
    report.schedules.create("s", "report", HOURLY_CRON)
    conn.execute("select pgqueue.schedule_edit('s', %s::jsonb)", (f"{{{change}}}",))
    assert [fire(report, dsn) for _ in range(3)] == [1, 1, 0]
    said = report.schedules.get("s")
    assert (said.plan, said.state) == (HOURLY_CRON, "active")
    assert said.error
    due(conn)
    fire(report, dsn)
    assert outcomes(conn) == ["fired"]


def test_sql_pauses_resumes_runs_and_deletes(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", "@yearly")
    call(conn, "schedule_pause('s', until => now() + interval '1 hour', by => 'ann', catch_up => 'once')")
    assert report.schedules.get("s").paused_by == "ann"
    tick = call(conn, "schedule_run('s', by => 'bob')")
    assert outcomes(conn) == ["queued"]
    fire(report, dsn)
    (fired,) = report.schedules.ticks("s")
    assert (fired.tick, fired.outcome, fired.by) == (tick, "fired", "bob")
    assert report.schedules.get("s").state == "paused"
    call(conn, "schedule_resume('s')")
    assert report.schedules.get("s").state == "active"
    call(conn, "schedule_delete('s')")
    assert report.schedules.list() == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("schedule_pause('none')", "no schedule is called 'none'"), ("schedule_resume('none')", "'none'"),
        ("schedule_run('none')", "'none'"), ("schedule_delete('none')", "'none'"),
        ("schedule_edit('none', '{}')", "'none'"), ("schedule_edit('s', '{\"next_tick\": 1}')", "has no next_tick"),
        ("schedule_create('x', 't', '{\"crom\": 1}')", "has no crom: give any of task, args, cron"),
        ("schedule_create('x', 't', '{}')", "schedule_one_plan"),
        ("schedule_pause('s', catch_up => 'all')", "resume_with"),
    ],
)  # fmt: skip
def test_sql_that_cannot_be_used_is_refused(report: App, conn: Conn, statement: str, message: str) -> None:
    report.schedules.create("s", "report", 60)
    with pytest.raises(psycopg.Error, match=message):
        call(conn, statement)


def test_sql_wakes_a_scheduler_that_sleeps(report: App, conn: Conn) -> None:
    """The poll is a minute away: only the notification can wake the scheduler."""
    asked: list[bool] = []

    def fired() -> bool:
        sleeping = "select count(*) > 0 from pg_stat_activity where application_name = 'pgqueue scheduler listen'"
        if not asked and scalar(conn, f"{sleeping} and datname = current_database() and query like 'listen%'"):
            asked.append(True)
            report.schedules.create("s", "report", "@yearly")
            call(conn, "schedule_run('s')")
        return "fired" in outcomes(conn)

    run_scheduler(report, fired, poll_seconds=60)
