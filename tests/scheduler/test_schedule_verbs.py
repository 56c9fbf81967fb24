"""The verbs on schedules: in the caller's transaction, what they refuse, what an edit changes."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cron, InvalidArguments, InvalidOption, InvalidPlan, RRule, ScheduleExists, UnknownSchedule, db
from tests.conftest import scalar
from tests.harness import Conn, InThread, wait_blocked
from tests.scheduler.ticking import HOURLY_CRON, due, fire, next_tick, now, outcomes, ticks


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.mark.parametrize("commits", [True, False])
def test_each_verb_is_part_of_the_callers_transaction(report: App, conn: Conn, dsn: str, commits: bool) -> None:
    report.schedules.create("old", "report", 60)
    before = conn.execute("select to_jsonb(s) from pgqueue.schedule s").fetchall()
    with psycopg.connect(dsn) as borrowed:
        verbs = report.schedules.using(borrowed)
        verbs.create("new", "report", 60)
        verbs.edit("old", 90)
        verbs.pause("old")
        verbs.resume("old")
        verbs.run("old")
        verbs.delete("new")
        borrowed.commit() if commits else borrowed.rollback()
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
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(UnknownSchedule, match="'none'"):
            verb(report.schedules.using(borrowed))
        report.schedules.using(borrowed).create("s", "report", 60)


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
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(error):
            report.schedules.using(borrowed).create("s", "report", *plan, **options)
        assert scalar(borrowed, "select count(*) from pgqueue.schedule") == 0


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
    report.schedules.create("s", "report", HOURLY_CRON)
    first = due(conn, hours=2)
    report.schedules.edit("s", "30 3 1 1 *", by="ann")
    assert [tick for tick, _, _ in ticks(conn)] == [first + timedelta(hours=n) for n in range(3)]
    assert set(outcomes(conn)) == {"missed"}
    assert scalar(conn, "select distinct reason from pgqueue.schedule_fire") == "passed before ann changed the plan"
    assert fire(report, dsn) == 0


def test_an_edit_waits_for_a_firing_in_flight(report: App, conn: Conn, dsn: str) -> None:
    report.schedules.create("s", "report", HOURLY_CRON)
    due(conn)
    with psycopg.connect(dsn) as firing, psycopg.connect(dsn) as editing:
        assert len(db.run(firing, report.queries.schedules.lock_due(10))) == 1
        second = InThread(lambda: report.schedules.using(editing).edit("s", 60))
        wait_blocked(conn, editing, firing)
        firing.rollback()
        second.result()


def test_the_preview_says_the_next_ticks_in_plain_words(report: App) -> None:
    report.schedules.create("s", "report", "0 6 * * mon", timezone="Europe/Paris")
    said = report.schedules.preview("s", 60)
    assert len(said) == 60
    assert all(one.words.startswith("Mon ") and " 06:00:00 Europe/Paris (UTC+" in one.words for one in said)
    changed = [one.words for one in said if "clocks went" in one.words]
    assert changed, "sixty weeks meet a change of clocks"
    assert all("1 hour)" in words for words in changed)


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
