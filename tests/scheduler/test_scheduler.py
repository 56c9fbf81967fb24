"""Schedules as rows: declared once, fired once a tick, missed ticks shown, and a bad one holds up no other."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context, InvalidOption, db
from pgqueue.db.link import Link
from pgqueue.scheduler import SchedulerSettings, Ticker
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import Every, Plan
from tests.conftest import drain, scalar
from tests.harness import QUERIES
from tests.scheduler.ticking import HOURLY, declare, fire, last_hour, next_tick, now, run_scheduler, ticks

Conn = psycopg.Connection[Any]


def test_declaring_the_same_plan_again_keeps_the_next_tick(conn: Conn) -> None:
    first = datetime(2030, 1, 1, tzinfo=UTC)
    declare(conn, "s", HOURLY, first)
    declare(conn, "s", HOURLY, first + timedelta(days=1))
    assert next_tick(conn) == first


def test_declaring_other_arguments_keeps_the_next_tick(conn: Conn) -> None:
    first = datetime(2030, 1, 1, tzinfo=UTC)
    declare(conn, "s", HOURLY, first)
    declare(conn, "s", HOURLY, first + timedelta(days=1), args='{"a": 1}', queue="other")
    assert next_tick(conn) == first
    assert scalar(conn, "select args->>'a' || queue from pgqueue.schedule") == "1other"


@pytest.mark.parametrize("plan", [Every(60), Cron("@daily"), Every(3600, "Europe/Paris")])
def test_declaring_another_plan_starts_from_its_first_tick(conn: Conn, plan: Plan) -> None:
    first = datetime(2030, 1, 1, tzinfo=UTC)
    declare(conn, "s", HOURLY, first)
    declare(conn, "s", plan, first + timedelta(days=1))
    assert next_tick(conn) == first + timedelta(days=1)


def test_declaring_keeps_a_pause(conn: Conn) -> None:
    declare(conn, "s", HOURLY, now(conn))
    conn.execute("update pgqueue.schedule set paused_at = now()")
    declare(conn, "s", Every(60), now(conn))
    assert scalar(conn, "select paused_at is not null from pgqueue.schedule")


def test_a_due_tick_becomes_a_job_a_row_and_the_next_tick(app: App, conn: Conn, dsn: str) -> None:
    tick = last_hour(conn)
    declare(conn, "s", HOURLY, tick, task="report", args='{"a": 1}', queue="mail")
    assert fire(app, dsn) == 1
    assert ticks(conn) == [(tick, "fired", True)]
    assert next_tick(conn) == tick + timedelta(hours=1)
    job = app.get(scalar(conn, "select job_id from pgqueue.schedule_fire"))
    assert (job.task, job.args, job.queue, job.max_attempts, job.state) == ("report", {"a": 1}, "mail", 3, "pending")


def test_a_tick_that_has_fired_does_not_fire_again(app: App, conn: Conn, dsn: str) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    assert [fire(app, dsn), fire(app, dsn)] == [1, 0]
    assert scalar(conn, "select count(*) from pgqueue.job") == 1


def test_a_tick_of_the_future_does_not_fire(app: App, conn: Conn, dsn: str) -> None:
    declare(conn, "s", HOURLY, now(conn) + timedelta(seconds=60))
    assert fire(app, dsn) == 0
    assert ticks(conn) == []


def test_firing_that_fails_in_between_leaves_nothing_and_succeeds_later(app: App, conn: Conn, dsn: str) -> None:
    tick = last_hour(conn)
    declare(conn, "s", HOURLY, tick)
    conn.execute("alter table pgqueue.schedule_fire add constraint broken check (false)")
    with pytest.raises(psycopg.errors.CheckViolation):
        fire(app, dsn)
    assert scalar(conn, "select count(*) from pgqueue.job") == 0
    assert scalar(conn, "select count(*) from pgqueue.transition") == 0
    assert next_tick(conn) == tick
    conn.execute("alter table pgqueue.schedule_fire drop constraint broken")
    assert fire(app, dsn) == 1
    assert ticks(conn) == [(tick, "fired", True)]


def test_after_a_downtime_the_newest_tick_fires_and_the_others_are_missed(app: App, conn: Conn, dsn: str) -> None:
    newest = last_hour(conn)
    passed = [newest - timedelta(hours=back) for back in (3, 2, 1)]
    declare(conn, "s", HOURLY, passed[0])
    fire(app, dsn)
    assert ticks(conn) == [*((tick, "missed", False) for tick in passed), (newest, "fired", True)]
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    assert next_tick(conn) == newest + timedelta(hours=1)


def test_after_a_long_downtime_each_missed_tick_is_a_row_written_in_parts(
    app: App, conn: Conn, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.scheduler.ticker.CHUNK", 100)
    declare(conn, "s", Every(1), Every(1).after(now(conn) - timedelta(seconds=351)))
    looks = 0
    while fire(app, dsn):
        looks += 1
    found = ticks(conn)
    assert looks >= 4
    outcomes = [outcome for _, outcome, _ in found]
    assert set(outcomes[:-2]) == {"missed"}
    assert outcomes[-1] == "fired"
    assert [one[0] for one in found] == [found[0][0] + timedelta(seconds=i) for i in range(len(found))]
    assert len(found) >= 350


@pytest.mark.parametrize("outcome", ["fired", "missed", "skipped"])
def test_a_tick_that_is_known_does_not_fire_again_and_holds_up_no_other(
    app: App, conn: Conn, dsn: str, outcome: str
) -> None:
    tick = last_hour(conn)
    for name in ("s", "other"):
        declare(conn, name, HOURLY, tick)
    job = 1 if outcome == "fired" else None
    conn.execute("insert into pgqueue.schedule_fire values ('s', %s, %s, null, %s)", (tick, outcome, job))
    assert fire(app, dsn) == 2
    assert ticks(conn) == [(tick, outcome, outcome == "fired")]
    assert ticks(conn, "other") == [(tick, "fired", True)]
    assert next_tick(conn) == tick + timedelta(hours=1)
    assert scalar(conn, "select count(*) from pgqueue.job") == 1


def test_a_missed_tick_that_is_known_is_no_obstacle(app: App, conn: Conn, dsn: str) -> None:
    newest = last_hour(conn)
    before = newest - timedelta(hours=1)
    declare(conn, "s", HOURLY, before)
    conn.execute("insert into pgqueue.schedule_fire values ('s', %s, 'missed')", (before,))
    fire(app, dsn)
    assert ticks(conn) == [(before, "missed", False), (newest, "fired", True)]


def test_a_paused_schedule_does_not_fire(app: App, conn: Conn, dsn: str) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    conn.execute("update pgqueue.schedule set paused_at = now()")
    assert fire(app, dsn) == 0
    assert db.run(conn, QUERIES.schedules.next_due()) is None


@pytest.mark.parametrize(
    "change",
    [
        "cron = 'garbage', every_seconds = null",
        "cron = '0 0 31 2 *', every_seconds = null",
        "timezone = 'No/Where'",
        "every_seconds = 0.001",
        "every_seconds = 'NaN'",
        "every_seconds = 'infinity'",
    ],
)
def test_a_schedule_that_was_edited_into_nonsense_holds_up_no_other(
    app: App, conn: Conn, dsn: str, change: str
) -> None:
    tick = last_hour(conn)
    for name in ("broken", "s"):
        declare(conn, name, HOURLY, tick)
    conn.execute(f"update pgqueue.schedule set {change} where name = 'broken'")
    fire(app, dsn)
    assert ticks(conn) == [(tick, "fired", True)]


@pytest.mark.parametrize("tick", ["-infinity", "infinity", "0044-03-15 12:00 BC"])
def test_a_tick_that_no_client_can_read_is_refused_by_the_table(conn: Conn, tick: str) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute("update pgqueue.schedule set next_tick = %s", [tick])


def test_a_schedule_of_an_unknown_task_fires_and_holds_up_no_other(app: App, conn: Conn, dsn: str) -> None:
    @app.task(name="known")
    async def known() -> None: ...

    for task in ("unknown", "known"):
        declare(conn, task, HOURLY, last_hour(conn), task=task)
    fire(app, dsn)
    drain(app, conn)
    states = dict(conn.execute("select task, state from pgqueue.job").fetchall())
    assert states == {"unknown": "blocked", "known": "succeeded"}


def test_a_job_that_a_schedule_fired_knows_the_schedule_and_the_tick(app: App, conn: Conn, dsn: str) -> None:
    seen: list[dict[str, Any]] = []

    @app.task(name="known")
    async def known(ctx: Context) -> None:
        seen.append(ctx.headers)

    tick = last_hour(conn)
    declare(conn, "s", HOURLY, tick, task="known")
    fire(app, dsn)
    drain(app, conn)
    assert [(h["schedule"], datetime.fromisoformat(h["tick"])) for h in seen] == [("s", tick)]


def test_a_scheduler_makes_rows_of_the_schedules_in_the_code_and_fires_them(app: App, conn: Conn) -> None:
    @app.schedule(1, args={"n": 4})
    @app.task(name="known")
    def known(n: int) -> None: ...

    run_scheduler(app, lambda: scalar(conn, "select count(*) >= 2 from pgqueue.schedule_fire where outcome = 'fired'"))
    assert conn.execute("select name, task, args->>'n', every_seconds from pgqueue.schedule").fetchall() == [
        ("known", "known", "4", 1.0)
    ]
    found = [row[0] for row in ticks(conn, "known")]
    assert found == [found[0] + timedelta(seconds=i) for i in range(len(found))]


@pytest.mark.parametrize(("count", "words"), [(1, "1 schedule declared here"), (2, "2 schedules declared here")])
def test_a_scheduler_logs_how_many_schedules_the_code_declares(
    app: App, caplog: pytest.LogCaptureFixture, count: int, words: str
) -> None:
    @app.task(name="report")
    def report() -> None: ...

    for number in range(count):
        app.schedule(3600, name=f"s{number}")(report)
    with caplog.at_level("INFO", "pgqueue"):
        run_scheduler(app, lambda: "declared here" in caplog.text)
    assert f"started: {words}\n" in caplog.text


def test_a_scheduler_that_has_stopped_leaves_no_row(app: App, conn: Conn) -> None:
    run_scheduler(app, lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker where kind = 'scheduler'"))
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_scheduler_survives_the_loss_of_its_connection(app: App, conn: Conn) -> None:
    declare(conn, "s", Every(1), now(conn))
    end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database()"
    lost: list[int] = []

    def lose_then_look() -> bool:
        fired = int(scalar(conn, "select count(*) from pgqueue.schedule_fire where outcome = 'fired'"))
        if fired and not lost and scalar(conn, f"{end} and application_name = 'pgqueue scheduler'"):
            lost.append(fired)
        return bool(lost) and fired > lost[0]

    run_scheduler(app, lose_then_look)
    assert scalar(conn, "select count(*) from pgqueue.job") == scalar(
        conn, "select count(*) from pgqueue.schedule_fire where outcome = 'fired'"
    )


def test_the_tags_of_a_task_travel_with_its_schedule(app: App, conn: Conn, dsn: str) -> None:
    @app.schedule(HOURLY, name="hourly")
    @app.task(name="t", tags=["x", "y, z"])
    def t() -> None: ...

    schedule = app.schedules["hourly"]
    db.run(conn, QUERIES.schedules.declare([(schedule, last_hour(conn))]))
    assert fire(app, dsn) == 1
    assert scalar(conn, "select tags from pgqueue.job") == ["x", "y, z"]


def test_a_schedule_that_cannot_be_fired_here_is_left_for_others(app: App, conn: Conn, dsn: str) -> None:
    declare(conn, "s", HOURLY, last_hour(conn))
    conn.execute("update pgqueue.schedule set timezone = 'Mars/Olympus'")

    async def twice() -> list[float]:
        link = Link(db.Database(dsn), "pgqueue scheduler")
        ticker = Ticker(app, link, SchedulerSettings(poll_seconds=7.0))
        delays = [await ticker.step(), await ticker.step()]
        await link.close()
        return delays

    assert asyncio.run(twice()) == [7.0, 7.0]  # it does not spin on a tick that it cannot fire
    assert scalar(conn, "select paused_at is null from pgqueue.schedule") is True


@pytest.mark.parametrize("name", ["", "x" * 201, "new\nline", 5])
def test_a_schedule_name_that_cannot_be_used_is_refused_where_it_is_written(app: App, name: str) -> None:
    @app.task(name="t")
    def t() -> None: ...

    with pytest.raises(InvalidOption, match="schedule name"):
        app.schedule(60, name=name or "\x00")(t)
