"""pgqueue.schedule_preview: SQL gets the next ticks that the plan gives, or an error if none were computed yet."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import App, db
from pgqueue.db.link import Link
from pgqueue.scheduler import Previewer
from pgqueue.scheduler.previewer import PAUSE
from tests.conftest import scalar
from tests.scheduler.ticking import HOURLY, declare, fire, last_hour, run_scheduler

Conn = psycopg.Connection[Any]
UNKNOWN = "no scheduler has worked out the next ticks of 's' yet"


def preview(conn: Conn, count: int = 5) -> list[tuple[datetime, str]]:
    return conn.execute("select * from pgqueue.schedule_preview('s', %s)", (count,)).fetchall()


def work_out(app: App, dsn: str) -> None:
    """Do what a scheduler does every few seconds."""

    async def once() -> None:
        link = Link(db.Database(dsn), "pgqueue scheduler")
        while await Previewer(app, link).step() < PAUSE:
            pass
        await link.close()

    asyncio.run(once())


@pytest.mark.parametrize("plan", ["0 6 * * mon", "*/7 * * * *", 90, timedelta(hours=5)], ids=str)
def test_it_says_what_python_says(app: App, conn: Conn, dsn: str, plan: Any) -> None:
    app.schedules.create("s", "t", plan, timezone="Europe/Paris")
    work_out(app, dsn)
    known = app.schedules.preview("s", 10)
    said = preview(conn, 10)
    assert [tick for tick, _ in said] == [one.tick for one in known]
    for (_, words), one in zip(said, known, strict=True):
        moment, _, wait = words.partition(", in ")
        assert one.words.startswith(f"{moment}, in ")
        assert wait


def test_nobody_is_shown_the_ticks_of_an_older_plan(app: App, conn: Conn, dsn: str) -> None:
    app.schedules.create("s", "t", "0 6 * * *")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=UNKNOWN):
        preview(conn)
    work_out(app, dsn)
    before = preview(conn)
    app.schedules.edit("s", queue="other")
    declare(conn, "other", HOURLY, last_hour(conn))
    fire(app, dsn)
    assert [tick for tick, _ in preview(conn)] == [tick for tick, _ in before]
    conn.execute("update pgqueue.schedule set cron = '0 7 * * *' where name = 's'")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=UNKNOWN):
        preview(conn)
    work_out(app, dsn)
    assert {tick.astimezone(UTC).hour for tick, _ in preview(conn)} == {7}


def test_ticks_that_have_passed_are_left_out_and_too_few_are_said_to_be_unknown(app: App, conn: Conn, dsn: str) -> None:
    app.schedules.create("s", "t", 60)
    work_out(app, dsn)
    app.schedules.create("soon", "t", 60)
    conn.execute("update pgqueue.schedule_ahead set ticks = (select array_agg(t - interval '15 minutes') from"
                 " unnest(ticks) t), stale_at = stale_at - interval '15 minutes'")  # fmt: skip
    assert [tick > datetime.now(UTC) for tick, _ in preview(conn, 4)] == [True] * 4
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=UNKNOWN):
        preview(conn, 10)
    work_out(app, dsn)
    assert len(preview(conn, 10)) == 10
    assert scalar(conn, "select count(*) from pgqueue.schedule_ahead where stale_at <= clock_timestamp()") == 0


def test_a_plan_that_ends_shows_what_is_left(app: App, conn: Conn, dsn: str) -> None:
    end = datetime.now(UTC) + timedelta(hours=3, minutes=1)
    app.schedules.create("s", "t", HOURLY, end=end)
    work_out(app, dsn)
    assert len(preview(conn, 10)) == 3
    app.schedules.edit("s", at=datetime(2100, 1, 1, 6, tzinfo=UTC), end=None)
    work_out(app, dsn)
    ((_, words),) = preview(conn)
    assert words.startswith("Fri 2100-01-01 06:00:00 UTC, in ")


def test_a_plan_that_cannot_be_used_is_not_made_up(app: App, conn: Conn, dsn: str) -> None:
    for name in ("s", "fine"):
        app.schedules.create(name, "t", 60)
    conn.execute("update pgqueue.schedule set every_seconds = null, cron = 'garbage' where name = 's'")
    work_out(app, dsn)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=UNKNOWN):
        preview(conn)
    assert scalar(conn, "select count(*) from pgqueue.schedule_preview('fine')") == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'none'", "no schedule is called 'none'"),
        ("'s', 0", "n=0 cannot be used: give 1 to 10"),
        ("'s', 11", "1 to 10"),
    ],
)
def test_what_cannot_be_asked_is_refused(app: App, conn: Conn, call: str, message: str) -> None:
    app.schedules.create("s", "t", 60)
    with pytest.raises(psycopg.Error, match=message):
        conn.execute(f"select * from pgqueue.schedule_preview({call})".encode())


def test_a_scheduler_works_it_out_soon_after_sql_has_made_a_schedule(app: App, conn: Conn) -> None:
    conn.execute("""select pgqueue.schedule_create('s', 't', '{"cron": "0 6 * * *"}')""")
    run_scheduler(app, lambda: scalar(conn, "select ticks is not null from pgqueue.schedule_ahead"))
    assert len(preview(conn, 10)) == 10
    app.schedules.delete("s")
    assert scalar(conn, "select count(*) from pgqueue.schedule_ahead") == 0
