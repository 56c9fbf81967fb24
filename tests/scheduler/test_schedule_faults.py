"""Schedules that cannot be used, or are locked, hold up no other schedule and stop no scheduler."""

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, InvalidOption, RRule, Unique, UnknownSchedule, db
from pgqueue.db.link import Link
from pgqueue.events import ScheduleMissed, ScheduleSkipped
from pgqueue.scheduler import Scheduler, SchedulerSettings, Ticker
from pgqueue.scheduler.ticker import BATCH
from pgqueue.schedules.plan import Plan
from tests.conftest import eventually, scalar
from tests.harness import InThread, wait_blocked
from tests.scheduler.releases import Living, release, states
from tests.scheduler.ticking import HOURLY, HOURLY_CRON, declare, fire, last_hour, next_tick, run_scheduler, ticks

Conn = psycopg.Connection[Any]


def two(conn: Conn) -> datetime:
    """Make two due schedules, one of which the test will spoil."""
    tick = last_hour(conn)
    for name in ("broken", "s"):
        declare(conn, name, HOURLY, tick)
    return tick


@pytest.mark.parametrize(
    "change",
    ["tags = '{a, null}'", "tags = '{{a, b}, {c, d}}'", """options = '{"delay": {}}'""", "grace_seconds = 'NaN'",
     """options = '{"expires": "soon"}'""", "starts_at = '2030-01-01Z', ends_at = '2029-01-01Z'", "edit_asked = '5'",
     "rrule = 'FREQ=DAILY', every_seconds = null, anchor = null", "starts_at = '9998-01-01Z'",
     "timezone = '../../etc/passwd'"],
)  # fmt: skip
def test_a_row_that_was_written_into_nonsense_is_shown_and_holds_up_no_other(
    app: App, conn: Conn, dsn: str, change: str
) -> None:
    tick = two(conn)
    conn.execute(f"update pgqueue.schedule set {change}, look_at = now() where name = 'broken'".encode())
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]
    assert ticks(conn, "broken") == []
    assert app.schedules.get("broken").error


@pytest.mark.parametrize("change", ['"tags": [1]', '"tags": [null]', '"options": 5', '"options": null', '"anchor": 5'])
def test_an_edit_by_sql_into_nonsense_stops_no_scheduler(app: App, conn: Conn, dsn: str, change: str) -> None:
    tick = two(conn)
    conn.execute("select pgqueue.schedule_edit('broken', %s::jsonb)", (f"{{{change}}}",))
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]
    assert app.schedules.get("broken").error
    fire(app, dsn)
    assert ticks(conn, "broken") == [(tick, "fired", True)]  # as before: the edit is dropped


def test_a_scheduler_without_the_extra_for_rules_fires_the_others(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = two(conn)
    conn.execute(
        "update pgqueue.schedule set rrule = 'FREQ=YEARLY;INTERVAL=7', anchor = '2020-01-01Z', every_seconds = null"
        " where name = 'broken'"
    )
    monkeypatch.setitem(sys.modules, "dateutil.rrule", None)
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]
    assert "python-dateutil" in (app.schedules.get("broken").error or "")


def test_a_plan_that_fails_when_it_is_asked_holds_up_no_other(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = two(conn)
    conn.execute("update pgqueue.schedule set every_seconds = 1800 where name = 'broken'")
    after = type(HOURLY).after

    def fails(plan: Any, moment: datetime) -> datetime:
        if plan.seconds == 1800:
            raise OverflowError("date value out of range")
        return after(plan, moment)

    monkeypatch.setattr(type(HOURLY), "after", fails)
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]
    assert app.schedules.get("broken").error == "date value out of range"
    monkeypatch.undo()
    fire(app, dsn)
    assert [outcome for _, outcome, _ in ticks(conn, "broken")][-1] == "fired"


# Locked schedules.


class Counting(Ticker):
    """A ticker that counts how often it looks."""

    looks = 0

    async def fire(self, at_most: int = BATCH) -> int:
        self.looks += 1
        return await super().fire(at_most)


def test_a_schedule_that_somebody_has_locked_is_not_looked_at_again_and_again(conn: Conn, dsn: str, app: App) -> None:
    declare(conn, "held", HOURLY, last_hour(conn))
    app.schedules.create("second", "t", 1)

    async def scenario() -> tuple[int, list[float]]:
        link = Link(db.Database(dsn), "pgqueue scheduler")
        ticker = Counting(app, link, SchedulerSettings(poll_seconds=30))
        running = asyncio.create_task(ticker.run())
        fired = "select count(*) >= 4 from pgqueue.schedule_fire where schedule = 'second'"
        await eventually(lambda: scalar(conn, fired), "ticks of the other")
        looks = ticker.looks
        ticker.stop()
        await running
        await link.close()
        query = "select extract(epoch from at - tick)::float8 from pgqueue.schedule_fire order by tick"
        return looks, [lag for (lag,) in conn.execute(query).fetchall()]

    with psycopg.connect(dsn) as holder:
        holder.execute("select from pgqueue.schedule where name = 'held' for update")
        looks, lags = asyncio.run(scenario())
    assert looks < 60  # a few in each second, not some thousands
    assert sorted(lags)[len(lags) // 2] < 0.1  # and the other schedule is on time
    assert fire(app, dsn) >= 1
    assert len(ticks(conn, "held")) == 1


@pytest.mark.parametrize("ask", [lambda s: s.preview("s"), lambda s: s.definition("s"), lambda s: s.get("s")])
def test_who_only_asks_waits_for_nobody_and_holds_up_no_firing(
    app: App, conn: Conn, dsn: str, ask: Callable[[Any], Any]
) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    with psycopg.connect(dsn) as firing, psycopg.connect(dsn) as asking:
        firing.execute("select from pgqueue.schedule for update")
        asking.execute("set lock_timeout = '1s'")
        assert ask(app.schedules.using(asking))
        firing.rollback()
        assert fire(app, dsn) == 1  # while the transaction that asked is still open


def test_a_delete_waits_for_a_firing_in_flight_whose_tick_stays(app: App, conn: Conn, dsn: str) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    with psycopg.connect(dsn) as firing, psycopg.connect(dsn) as deleting:
        (due,) = db.run(firing, app.queries.schedules.lock_due(10))
        second = InThread(lambda: app.schedules.using(deleting).delete("s"))
        wait_blocked(conn, deleting, firing)
        db.run(firing, app.queries.schedules.record_ticks([], [(due.state, None)]))  # type: ignore[union-attr]
        firing.commit()
        second.result()
    assert app.schedules.list() == []


def test_a_scheduler_starts_and_declares_the_others_while_one_is_locked(dsn: str, conn: Conn) -> None:
    async def deploy() -> None:
        living, one = Living(dsn), App(dsn)
        await living.start(release(dsn, "held", "gone", "s", plan="0 1 * * *")).step()
        conn.execute("delete from pgqueue.schedule_release")
        new = living.start(release(dsn, "held", "s", plan="0 2 * * *"))
        with psycopg.connect(dsn) as holder:
            holder.execute("select from pgqueue.schedule where name in ('held', 'gone') for update")
            await new.step()
            assert {s.name: s.plan for s in one.schedules.list()} == {
                "held": "0 1 * * *", "gone": "0 1 * * *", "s": "0 2 * * *",
            }  # fmt: skip
        await new.step()
        assert one.schedules.get("held").plan == "0 2 * * *"
        assert (await states(one))["gone"] == "disabled"
        await living.close()
        one.close()
        await one.aclose()

    asyncio.run(deploy())


def test_a_scheduler_that_cannot_declare_fires_what_there_is(app: App, conn: Conn) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    app.schedules.declare("new", "t", 60)
    conn.execute("alter table pgqueue.schedule add constraint spoilt check (name <> 'new')")

    async def scenario() -> None:
        scheduler = Scheduler(app, SchedulerSettings())
        running = asyncio.create_task(scheduler.run())
        await eventually(lambda: running.done() or ticks(conn), "a tick")
        assert not running.done()
        scheduler.stop()
        await running

    asyncio.run(scenario())
    assert [outcome for _, outcome, _ in ticks(conn)] == ["fired"]


def test_what_is_too_much_for_one_transaction_is_done_in_smaller_ones(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick = last_hour(conn)
    for number in range(9):
        declare(conn, f"s{number}", HOURLY, tick)
    asked: list[int] = []
    fires = Ticker.fire

    async def slow(ticker: Ticker, at_most: int = BATCH) -> int:
        asked.append(at_most)
        if at_most > 2:
            raise psycopg.OperationalError("cut off: it took too long")
        return await fires(ticker, at_most)

    monkeypatch.setattr(Ticker, "fire", slow)
    run_scheduler(app, lambda: scalar(conn, "select count(*) = 9 from pgqueue.schedule_fire"))
    assert asked[:6] == [500, 125, 31, 7, 1, 2]


def test_many_that_catch_up_a_lot_share_no_transaction(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.scheduler.ticker.CHUNK", 100)
    app.schedules.create("s0", "t", 60, misfire="all(60)")
    for number in range(1, 5):
        app.schedules.create(f"s{number}", "t", 60, misfire="all(60)")
    conn.execute("update pgqueue.schedule set next_tick = next_tick - interval '70 minutes'")
    fire(app, dsn)
    jobs = "select count(*) from pgqueue.job"
    assert 100 < scalar(conn, jobs) < 200  # of two or three schedules
    while fire(app, dsn):
        pass
    assert scalar(conn, jobs) == 300


# Settings of the task itself, and unusual options.


def test_listeners_are_told_once_for_each_look_what_did_not_fire(app: App, conn: Conn, dsn: str) -> None:
    heard: list[ScheduleMissed | ScheduleSkipped] = []
    app.on(ScheduleMissed)(heard.append)
    app.on(ScheduleSkipped)(heard.append)
    app.schedules.create("s", "t", HOURLY_CRON, overlap="skip", misfire="all(2)")
    newest = last_hour(conn)
    conn.execute("update pgqueue.schedule set next_tick = %s", (newest - timedelta(hours=3),))
    fire(app, dsn)
    missed, skipped = heard
    assert (missed.schedule, missed.first, missed.last, missed.count) == (
        "s", newest - timedelta(hours=3), newest - timedelta(hours=2), 2,
    )  # fmt: skip
    assert (skipped.first, skipped.last, skipped.count) == (newest, newest, 1)
    assert skipped.reason == "1 jobs of earlier ticks are not finished"
    assert "misfire is all(2)" in missed.reason


def test_a_schedule_fires_each_tick_whatever_keys_and_bounds_say(dsn: str, conn: Conn) -> None:
    app = App(dsn, max_depth={"full": 1})
    app.task(name="once", queue="full", idempotent=True)(lambda: None).enqueue()
    app.task(name="alone", unique=Unique(while_="live"))(lambda: None).enqueue()
    for task in ("once", "alone"):
        app.schedules.create(task, task, HOURLY_CRON, misfire="all(2)")
    first = last_hour(conn) - timedelta(hours=1)
    conn.execute("update pgqueue.schedule set next_tick = %s", (first,))
    fire(app, dsn)
    for task in ("once", "alone"):
        assert [outcome for _, outcome, _ in ticks(conn, task)] == ["fired", "fired"]
        assert scalar(conn, "select count(*) from pgqueue.job where task = %s", task) == 3
        app.schedules.run(task)
    app.close()


def test_a_pause_until_a_moment_that_has_passed_is_refused(app: App, conn: Conn, dsn: str) -> None:
    app.schedules.create("s", "t", 60)
    with psycopg.connect(dsn) as borrowed:
        with pytest.raises(InvalidOption, match="has passed: give a later moment"):
            app.schedules.using(borrowed).pause("s", until=datetime(2020, 1, 1, tzinfo=UTC))
        assert app.schedules.using(borrowed).get("s").state == "active"  # the transaction is usable
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="has passed: give a later moment"):
            borrowed.execute("select pgqueue.schedule_pause('s', until => now() - interval '1 second')")
    with pytest.raises(UnknownSchedule):
        app.schedules.pause("none", until=datetime(2100, 1, 1, tzinfo=UTC))


def test_a_pause_for_a_duration_ends_by_the_clock_of_the_database(app: App, conn: Conn) -> None:
    app.schedules.create("s", "t", 60)
    status = app.schedules.pause("s", until=timedelta(hours=2))
    assert 7190 < scalar(conn, "select extract(epoch from %s - now())::float8", status.paused_until) <= 7200
    status = app.schedules.pause("s", until=90)
    assert 80 < scalar(conn, "select extract(epoch from %s - now())::float8", status.paused_until) <= 90
    with pytest.raises(InvalidOption, match="until=-1"):
        app.schedules.pause("s", until=-1)


def test_a_preview_of_a_pause_has_the_ticks_that_would_pass(app: App, conn: Conn) -> None:
    app.schedules.create("s", "t", "0 * * * *")
    now = conn.execute("select now()").fetchone()
    assert now is not None
    hours = app.schedules.preview_pause("s", until=5 * 3600)
    assert [tick.tick.minute for tick in hours.ticks] == [0] * 5
    assert hours.until is not None
    assert now[0] < hours.ticks[0].tick <= hours.ticks[-1].tick < hours.until
    assert not hours.has_more
    some = app.schedules.preview_pause("s", until=5 * 3600, limit=4)
    assert (len(some.ticks), some.has_more) == (4, True)
    endless = app.schedules.preview_pause("s", limit=3)
    assert (endless.until, len(endless.ticks), endless.has_more) == (None, 3, True)
    assert app.schedules.get("s").state == "active"
    with pytest.raises(UnknownSchedule):
        app.schedules.preview_pause("none")
    with pytest.raises(InvalidOption, match="has passed"):
        app.schedules.preview_pause("s", until=datetime(2020, 1, 1, tzinfo=UTC))


def test_jitter_longer_than_the_interval_spreads_the_jobs_and_moves_no_tick(app: App, conn: Conn, dsn: str) -> None:
    app.schedules.create("s", "t", 60, jitter=3600, misfire="all(50)")
    conn.execute("update pgqueue.schedule set next_tick = next_tick - interval '20 minutes'")
    fire(app, dsn)
    found = [tick for tick, _, _ in ticks(conn)]
    assert found == [found[0] + n * timedelta(minutes=1) for n in range(len(found))]
    spread = "select extract(epoch from run_at - (headers->>'tick')::timestamptz)::float8 from pgqueue.job"
    waits = [wait for (wait,) in conn.execute(spread.encode()).fetchall()]
    assert len(waits) == len(found) >= 20
    assert 0 <= min(waits) < 1800 < max(waits) < 3600


@pytest.mark.parametrize("plan", ["0 0 29 2 *", RRule("FREQ=YEARLY", datetime(8990, 6, 1, tzinfo=UTC))], ids=str)
def test_a_schedule_that_begins_far_away_waits(app: App, conn: Conn, dsn: str, plan: str | Plan) -> None:
    app.schedules.create("s", "t", plan, start=datetime(8995, 1, 1, tzinfo=UTC))
    assert 8995 <= next_tick(conn).year <= 8997
    assert fire(app, dsn) == 0
    assert len(app.schedules.preview("s", 2)) == 2
