"""The verbs on schedules: in the caller's transaction, from Python and from SQL; declared ones, and edits of them."""

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Databases, drain, scalar
from harness import InThread, wait_blocked
from test_scheduler import HOURLY, fire, last_hour, next_tick, now, run_scheduler, ticks

from pgqueue import (
    App,
    Context,
    Cron,
    InvalidArguments,
    InvalidOption,
    InvalidPlan,
    RRule,
    ScheduleExists,
    UnknownSchedule,
    db,
)
from pgqueue.db.link import Link
from pgqueue.scheduler import Declarer
from pgqueue.scheduler.declaring import declare

Conn = psycopg.Connection[Any]
DAY = timedelta(days=1)


TABLES = ("schedule", "schedule_fire", "schedule_release", "job_live", "job_finished", "transition", "worker")


@pytest.fixture(scope="module")
def database(server_dsn: str, template: str) -> Iterator[str]:
    databases = Databases(server_dsn)
    yield databases.make(template)
    databases.drop_all()


@pytest.fixture
def dsn(database: str) -> str:
    """One database for all tests of this file, emptied before each."""
    with psycopg.connect(database, autocommit=True) as conn:
        for table in TABLES:
            conn.execute(f"delete from pgqueue.{table}")
    return database


@pytest.fixture
def report(app: App) -> App:
    """An app that knows a task."""

    @app.task(name="report", queue="reports", tags=["r"])
    def report(day: int = 0) -> None: ...

    return app


def outcomes(conn: Conn, schedule: str = "s") -> list[str]:
    return [outcome for _, outcome, _ in ticks(conn, schedule)]


def due(conn: Conn, hours: int = 0) -> datetime:
    """Make the schedule s due: its next tick is the last full hour, or some before."""
    tick = last_hour(conn) - timedelta(hours=hours)
    conn.execute("update pgqueue.schedule set next_tick = %s", (tick,))
    return tick


def test_a_schedule_that_is_made_at_run_time_fires(report: App, conn: Conn, dsn: str) -> None:
    made = report.schedules.create("s", "report", "0 * * * *", args={"day": 3}, priority=5, by="ann")
    assert (made.state, made.plan, made.task, made.edited_by) == ("active", "0 * * * *", "report", "ann")
    assert made.next_tick == HOURLY.after(now(conn))
    due(conn)
    fire(report, dsn)
    job = report.get(ticks_job(conn))
    assert (job.task, job.args, job.queue, job.priority, job.tags) == ("report", {"day": 3}, "reports", 5, ("r",))


def ticks_job(conn: Conn) -> int:
    return int(scalar(conn, "select max(job_id) from pgqueue.schedule_fire"))


@pytest.mark.parametrize("commits", [True, False])
def test_each_verb_is_part_of_the_callers_transaction(report: App, conn: Conn, dsn: str, commits: bool) -> None:
    report.schedules.create("old", "report", 60)
    before = conn.execute("select to_jsonb(s) from pgqueue.schedule s").fetchall()
    with psycopg.connect(dsn) as lent:
        verbs = report.schedules.using(lent)
        verbs.create("new", "report", 60)
        verbs.edit("old", 90)
        verbs.pause("old")
        verbs.resume("old")
        verbs.run("old")
        verbs.delete("new")
        lent.commit() if commits else lent.rollback()
    after = conn.execute("select to_jsonb(s) from pgqueue.schedule s").fetchall()
    assert (after == before) is not commits
    assert scalar(conn, "select count(*) from pgqueue.job") == int(commits)


def test_the_async_twins_do_the_same(report: App, conn: Conn) -> None:
    async def all_of_them() -> None:
        verbs = report.schedules
        await verbs.acreate("s", "report", 60)
        assert (await verbs.aedit("s", at=datetime(2100, 1, 1, tzinfo=UTC))).plan == "once"
        assert (await verbs.apause("s")).state == "paused"
        assert (await verbs.aresume("s")).state == "active"
        assert (await verbs.arun("s")).task == "report"
        assert [one.name for one in await verbs.alist()] == ["s"]
        assert [tick.outcome for tick in await verbs.aticks("s")] == ["fired"]
        assert (await verbs.adefinition("s")).job.task == "report"
        assert [one.tick.year for one in await verbs.apreview("s")] == [2100]
        with pytest.raises(InvalidOption, match="was made at run time"):
            await verbs.arevert("s")
        await verbs.adelete("s")
        with pytest.raises(UnknownSchedule):
            await verbs.aget("s")
        await report.aclose()

    asyncio.run(all_of_them())


@pytest.mark.parametrize(
    "verb",
    [
        lambda s: s.get("none"), lambda s: s.edit("none", 60), lambda s: s.pause("none"), lambda s: s.resume("none"),
        lambda s: s.run("none"), lambda s: s.delete("none"), lambda s: s.preview("none"), lambda s: s.revert("none"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_said_and_the_transaction_stays_usable(
    report: App, dsn: str, verb: Callable[[Any], Any]
) -> None:
    with psycopg.connect(dsn) as lent:
        with pytest.raises(UnknownSchedule, match="'none'"):
            verb(report.schedules.using(lent))
        report.schedules.using(lent).create("s", "report", 60)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, InvalidPlan),
        ({"plan": "61 * * * *"}, InvalidPlan),
        ({"plan": 60, "at": datetime(2100, 1, 1, tzinfo=UTC)}, InvalidPlan),
        ({}, InvalidPlan),
        ({"plan": 60, "end": datetime(2020, 1, 1, tzinfo=UTC)}, InvalidPlan),
        ({"plan": 60, "args": {"nonsense": 1}}, InvalidArguments),
        ({"plan": 60, "misfire": "never"}, InvalidOption),
        ({"plan": 60, "priority": 1000}, InvalidOption),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_is_written(
    report: App, dsn: str, options: dict[str, Any], error: type[Exception]
) -> None:
    plan = [options.pop("plan")] if "plan" in options else []
    with psycopg.connect(dsn) as lent:
        with pytest.raises(error):
            report.schedules.using(lent).create("s", "report", *plan, **options)
        assert scalar(lent, "select count(*) from pgqueue.schedule") == 0


def test_a_name_that_is_taken_is_refused_or_replaced(report: App, conn: Conn) -> None:
    report.schedules.create("s", "report", 60)
    with pytest.raises(ScheduleExists, match=r"'s' already: edit it, or give replace=True"):
        report.schedules.create("s", "report", 90)
    assert report.schedules.create("s", "report", "@daily", replace=True, misfire="skip").misfire == "skip"
    assert report.schedules.definition("s").plan == Cron("@daily")
    assert scalar(conn, "select count(*) from pgqueue.schedule") == 1


def test_two_that_make_the_same_name_at_once_wait_and_one_is_told(report: App, conn: Conn, dsn: str) -> None:
    with psycopg.connect(dsn) as a, psycopg.connect(dsn) as b:
        report.schedules.using(a).create("s", "report", 60)
        second = InThread(lambda: report.schedules.using(b).create("s", "report", 90))
        wait_blocked(conn, b, a)
        a.commit()
        with pytest.raises(ScheduleExists):
            second.result()


def test_an_edit_changes_what_is_given_and_leaves_the_rest(report: App, conn: Conn) -> None:
    report.schedules.create("s", "report", "0 6 * * *", timezone="Europe/Paris", args={"day": 1}, misfire="skip")
    before = next_tick(conn)
    report.schedules.edit("s", queue="bulk", args={"day": 2}, overlap="skip", grace=5)
    assert next_tick(conn) == before
    said = report.schedules.definition("s")
    assert (said.plan, said.job.queue, said.job.args, said.misfire, said.grace, said.max_running) == (
        Cron("0 6 * * *", "Europe/Paris"), "bulk", '{"day": 2}', "skip", 5.0, 1,
    )  # fmt: skip
    report.schedules.edit("s", timezone="Asia/Kolkata", overlap="allow")
    said = report.schedules.definition("s")
    assert (said.plan, said.max_running) == (Cron("0 6 * * *", "Asia/Kolkata"), None)
    assert next_tick(conn) != before
    with pytest.raises(InvalidArguments):
        report.schedules.edit("s", args={"nonsense": 1})


def test_ticks_of_the_old_plan_that_have_passed_are_told_when_it_is_edited(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", "0 * * * *")
    first = due(conn, hours=2)
    report.schedules.edit("s", "30 3 1 1 *", by="ann")
    assert [tick for tick, _, _ in ticks(conn)] == [first + timedelta(hours=n) for n in range(3)]
    assert set(outcomes(conn)) == {"missed"}
    assert scalar(conn, "select distinct reason from pgqueue.schedule_fire") == "passed before ann changed the plan"
    assert fire(report, dsn) == 0


def test_an_edit_waits_for_a_firing_in_flight(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", "0 * * * *")
    due(conn)
    with psycopg.connect(dsn) as firing, psycopg.connect(dsn) as editing:
        assert len(db.run(firing, report.queries.schedules.lock_due(10))) == 1
        second = InThread(lambda: report.schedules.using(editing).edit("s", 60))
        wait_blocked(conn, editing, firing)
        firing.rollback()
        second.result()


def test_a_paused_schedule_is_caught_up_as_it_is_resumed(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", "0 * * * *")
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
    report.schedules.create("s", "report", "0 * * * *")
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


def test_the_preview_says_the_next_ticks_in_plain_words(report: App) -> None:
    report.schedules.create("s", "report", "0 6 * * mon", timezone="Europe/Paris")
    said = report.schedules.preview("s", 60)
    assert len(said) == 60
    assert all(one.words.startswith("Mon ") and " 06:00:00 Europe/Paris (UTC+" in one.words for one in said)
    changed = [one.words for one in said if "clocks went" in one.words]
    assert changed, "sixty weeks meet a change of clocks"
    assert all("1 hour)" in words for words in changed)


def test_a_one_shot_fires_once_and_is_over(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", at=now(conn) + DAY)
    due(conn)
    conn.execute("update pgqueue.schedule set at = next_tick")
    fire(report, dsn)
    assert outcomes(conn) == ["fired"]
    assert report.schedules.get("s").state == "over"
    assert fire(report, dsn) == 0


def test_an_rrule_is_kept_and_read_back(report: App, conn: Conn) -> None:
    rule = RRule("FREQ=MONTHLY;BYDAY=-1FR", datetime(2026, 1, 1, 9, tzinfo=UTC), "Europe/Paris")
    report.schedules.create("s", "report", rule)
    assert report.schedules.definition("s").plan == rule
    assert next_tick(conn) == rule.after(now(conn))


def test_thousands_are_listed_a_page_at_a_time(report: App, conn: Conn) -> None:
    report.schedules.create("s", "report", 60)
    conn.execute(
        "insert into pgqueue.schedule (name, task, queue, every_seconds, next_tick)"
        " select 't' || lpad(i::text, 4, '0'), 'report', 'q', 60, now() + interval '1 day'"
        " from generate_series(1, 999) i"
    )
    page = report.schedules.list(limit=600)
    rest = report.schedules.list(after=page[-1].name)
    assert (len(page), len(rest), rest[-1].name) == (600, 400, "t0999")


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
    report.schedules.create("s", "report", "0 * * * *", **options)
    first = due(conn, hours=2)
    fire(report, dsn)
    assert [(tick, outcome) for tick, outcome, _ in ticks(conn)] == [
        (first + timedelta(hours=n), outcome) for n, outcome in enumerate(expected)
    ]
    jobs = conn.execute("select (headers->>'tick')::timestamptz from pgqueue.job order by id").fetchall()
    assert [tick for (tick,) in jobs] == [tick for tick, outcome, _ in ticks(conn) if outcome == "fired"]
    assert next_tick(conn) == first + timedelta(hours=3)


# Overlaps, with real jobs.


def overlapping(app: App, conn: Conn, dsn: str, **options: Any) -> list[str]:
    """Fire twice, an hour apart, while nobody works; return the outcomes."""
    app.schedules.create("s", "report", "0 * * * *", **options)
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
    report.schedules.create("s", "report", "0 * * * *", overlap="queue", misfire="all(9)")
    due(conn, hours=1)

    def ended() -> bool:
        conn.execute("delete from pgqueue.job_live")  # as if it had been done
        return bool(scalar(conn, "select count(*) = 2 from pgqueue.schedule_fire where outcome = 'fired'"))

    run_scheduler(report, ended)


def test_cancel_running_cancels_the_earlier_job(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", "0 * * * *", overlap="cancel_running")
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
    report.schedules.create("s", "report", "0 * * * *", overlap="skip")
    report.schedules.run("s")
    due(conn)
    fire(report, dsn)
    assert sorted(outcomes(conn)) == ["fired", "skipped"]


def test_one_schedule_whose_job_cannot_be_inserted_holds_up_no_other(report: App, conn: Conn, dsn: str) -> None:
    for name in ("good", "bad", "fine"):
        report.schedules.create(name, name, "0 * * * *")
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


# SQL.


def call(conn: Conn, statement: str, *params: Any) -> Any:
    return scalar(conn, f"select pgqueue.{statement}", *params)


def test_sql_makes_a_schedule_that_fires(report: App, conn: Conn, dsn: str) -> None:
    call(conn, """schedule_create('s', 'report', '{"cron": "0 * * * *", "args": {"day": 4}, "queue": "bulk"}')""")
    assert report.schedules.get("s").state == "active"
    conn.execute("update pgqueue.schedule set replan_from = replan_from - interval '1 hour'")
    fire(report, dsn)
    assert outcomes(conn) == ["fired"]
    assert scalar(conn, "select queue || (args->>'day') from pgqueue.job") == "bulk4"
    assert next_tick(conn) == HOURLY.after(now(conn))


def test_sql_edits_as_of_the_moment_it_asks(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", "0 * * * *")
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
    report.schedules.create("s", "report", "0 * * * *")
    conn.execute("select pgqueue.schedule_edit('s', %s::jsonb)", (f"{{{change}}}",))
    assert [fire(report, dsn) for _ in range(3)] == [1, 1, 0]
    said = report.schedules.get("s")
    assert (said.plan, said.state) == ("0 * * * *", "active")
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
    """The poll is a minute away: only the notification can be what wakes it."""
    asked: list[bool] = []

    def fired() -> bool:
        sleeping = "select count(*) > 0 from pg_stat_activity where application_name = 'pgqueue scheduler listen'"
        if not asked and scalar(conn, f"{sleeping} and datname = current_database() and query like 'listen%'"):
            asked.append(True)
            report.schedules.create("s", "report", "@yearly")
            call(conn, "schedule_run('s')")
        return "fired" in outcomes(conn)

    run_scheduler(report, fired, poll_seconds=60)


# Declared in code.


def declared(app: App, dsn: str) -> None:
    """Do what a scheduler does when it starts."""

    async def once() -> None:
        link = Link(db.Database(dsn), "pgqueue scheduler")
        await declare(app, link)
        await link.close()

    asyncio.run(once())


def release(dsn: str, *names: str, plan: str = "@daily", app: str = "shop:app") -> App:
    """An app as one release of the code declares it."""
    one = App(dsn, name=app)
    for name in names:
        one.schedules.declare(name, "report", plan)
    return one


class Living:
    """Declarers of several releases, each told when to say that it lives."""

    def __init__(self, dsn: str) -> None:
        self._link = Link(db.Database(dsn), "pgqueue scheduler")

    def start(self, app: App) -> Declarer:
        return Declarer(app, self._link)

    async def close(self) -> None:
        await self._link.close()


def test_what_an_operator_has_edited_is_not_overwritten_by_the_code(report: App, conn: Conn, dsn: str) -> None:
    first = release(dsn, "s", plan="0 5 * * *")
    declared(first, dsn)
    report.schedules.edit("s", "0 7 * * *", by="ann")
    for app in (first, release(dsn, "s", plan="0 6 * * *")):
        declared(app, dsn)
        said = report.schedules.get("s")
        assert (said.plan, said.edited_by, said.app) == ("0 7 * * *", "ann", "shop:app")
    assert report.schedules.revert("s").plan == "0 6 * * *"
    assert report.schedules.get("s").edited_by is None
    declared(release(dsn, "s", plan="0 8 * * *"), dsn)
    assert report.schedules.get("s").plan == "0 8 * * *"


def test_ticks_that_have_passed_are_told_when_the_code_changes_the_plan(conn: Conn, dsn: str) -> None:
    declared(release(dsn, "s", plan="0 * * * *"), dsn)
    due(conn, hours=1)
    declared(release(dsn, "s", plan="30 3 1 1 *"), dsn)
    assert outcomes(conn) == ["missed", "missed"]


def test_what_the_code_drops_is_disabled_shown_and_can_be_brought_back(report: App, conn: Conn, dsn: str) -> None:
    async def deploy() -> None:
        living = Living(dsn)
        old = living.start(release(dsn, "a", "b"))
        await old.step()
        new = living.start(release(dsn, "a", "c"))
        await new.step()
        assert await states(report) == {"a": "active", "b": "active", "c": "active"}  # the old one still lives
        await old.leave()
        await new.step()
        assert await states(report) == {"a": "active", "b": "disabled", "c": "active"}
        await report.schedules.aresume("b")
        await new.step()
        assert await states(report) == {"a": "active", "b": "active", "c": "active"}
        await living.close()
        await report.aclose()

    asyncio.run(deploy())


async def states(app: App) -> dict[str, str]:
    return {one.name: one.state for one in await app.schedules.alist()}


def test_the_newest_release_has_its_say_also_when_an_older_one_starts_again(report: App, dsn: str) -> None:
    async def deploy() -> None:
        living = Living(dsn)
        old = living.start(release(dsn, "s", plan="0 1 * * *"))
        await old.step()
        new = living.start(release(dsn, "s", plan="0 2 * * *"))
        for declarer in (new, living.start(release(dsn, "s", plan="0 1 * * *")), old, new):
            await declarer.step()
            assert (await report.schedules.aget("s")).plan == "0 2 * * *"
        await new.leave()
        await old.step()  # the deploy was rolled back
        assert (await report.schedules.aget("s")).plan == "0 1 * * *"
        await living.close()
        await report.aclose()

    asyncio.run(deploy())


def test_one_app_does_not_disable_what_another_declares(report: App, dsn: str) -> None:
    async def both() -> None:
        living = Living(dsn)
        for app in (release(dsn, "a"), release(dsn, "b", app="mail:app"), release(dsn, "c", app="")):
            await living.start(app).step()
        assert set((await states(report)).values()) == {"active"}
        await living.close()
        await report.aclose()

    asyncio.run(both())


@pytest.mark.parametrize("edited", [False, True])
def test_a_schedule_that_the_code_declares_again_goes_on_from_then(
    report: App, conn: Conn, dsn: str, edited: bool
) -> None:
    app = release(dsn, "s", plan="30 3 1 1 *" if edited else "0 * * * *")
    declared(app, dsn)
    if edited:
        report.schedules.edit("s", "0 * * * *")
    due(conn, hours=3)
    conn.execute("update pgqueue.schedule set disabled_at = now() - interval '4 hours'")
    assert fire(report, dsn) == 0
    declared(app, dsn)
    assert fire(report, dsn) == int(edited)  # an edit is planned anew by the scheduler
    assert next_tick(conn) == HOURLY.after(now(conn))
    assert ticks(conn) == []


def test_the_role_of_the_docs_can_manage_schedules(report: App, conn: Conn, dsn: str) -> None:
    page = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (grants,) = [block for block in blocks if "to manager" in block]
    (others,) = [block for block in blocks if "grant usage" in block]
    producer = "".join(re.findall(r"^grant.*? to app;\n", others, re.MULTILINE))
    role = scalar(conn, "select 'r' || substr(md5(random()::text), 1, 8)")
    conn.execute(f"create role {role}".encode())
    try:
        conn.execute(
            (producer.replace("to app;", f"to {role};") + grants.replace("to manager;", f"to {role};")).encode()
        )
        with psycopg.connect(dsn) as lent:
            lent.execute(f"set role {role}".encode())
            verbs = report.schedules.using(lent)
            verbs.create("s", "report", 60)
            verbs.edit("s", 90)
            verbs.pause("s")
            verbs.resume("s")
            verbs.run("s")
            lent.execute("select pgqueue.schedule_run('s'), pgqueue.schedule_edit('s', '{}')")
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState), lent.transaction():
                lent.execute("select pgqueue.schedule_preview('s')")
            verbs.delete("s")
    finally:
        conn.execute(f"drop owned by {role}; drop role {role}".encode())
