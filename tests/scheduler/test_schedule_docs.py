"""docs/schedules.md: its examples run, its tables say what happens."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cron
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import ScheduleState, TickDecision, decide_ticks
from tests.conftest import scalar

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
NOON = datetime(2100, 6, 1, 12, tzinfo=UTC)  # a Tuesday
MINUTE = timedelta(minutes=1)
ROWS = dict(re.findall(r"^\| ((?:Celery|APScheduler) .*?) \| `(.*?)` \|$", PAGE, re.MULTILINE))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_page_runs(dsn: str, conn: psycopg.Connection[Any], capsys: Any) -> None:
    namespace: dict[str, Any] = {}
    for code in blocks("python"):
        exec(compile(code, "schedules.md", "exec"), namespace)
    app: App = namespace["app"]
    app.dsn = dsn
    with psycopg.connect(dsn, autocommit=True) as borrowed:
        namespace["add_tenant"](borrowed, 7)
    assert " 07:00:00 UTC, in " in capsys.readouterr().out
    assert scalar(conn, "select count(*) from pgqueue.job") == 1
    assert len(app.schedules) == 5
    app.close()


def test_the_sql_of_the_page_runs(conn: psycopg.Connection[Any]) -> None:
    for block in blocks("sql"):
        for statement in block.split(";"):
            if statement.strip():
                conn.execute(statement.encode())
    assert scalar(conn, "select count(*) from pgqueue.schedule") == 0


@pytest.mark.parametrize("what", ["W", "L-3", "fri-mon", "@reboot", "?", "H"])
def test_what_the_page_says_is_not_understood_is_refused(what: str) -> None:
    day = {"W": "15W", "fri-mon": "*"}.get(what, what)
    expression = what if what == "@reboot" else f"0 0 {day} * {'fri-mon' if what == 'fri-mon' else '*'}"
    with pytest.raises(ValueError, match="cannot be used"):
        Cron(expression)


def test_the_table_of_clock_changes_is_what_happens() -> None:
    rows = re.findall(r"^\| `(\S+ \S+ \* \* \*)` \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for expression, *days in rows:
        plan = Cron(expression, "Europe/Paris")
        for said, day in zip(days, (datetime(2026, 3, 28, 23), datetime(2026, 10, 24, 22)), strict=True):
            start = day.replace(tzinfo=UTC)  # midnight in Paris
            found, tick = [], plan.after(start - timedelta(seconds=1))
            while tick < start + timedelta(hours=12):
                found.append(tick)
                tick = plan.after(tick)
            if said == "each hour":
                assert [b - a for a, b in pairwise(found)] == [timedelta(hours=1)] * 11
            else:
                times = re.findall(r"\d\d:\d\d", said.split(", which")[0])  # the page says it in words for people
                assert [f"{tick:%H:%M}" for tick in found] == times
                assert times or said == "none"


def passed(schedule: Schedule, count: int, late: float = 0, live: int = 0) -> TickDecision:
    """Decide on a schedule of a minute of which `count` ticks have passed, the newest `late` seconds ago."""
    first = NOON - (count - 1) * MINUTE
    return decide_ticks(
        ScheduleState(schedule, NOON + timedelta(seconds=late), first, live_jobs=list(range(live))), [], 1000
    )


def nexts(schedule: Schedule, count: int = 2) -> list[str]:
    found, tick = [], schedule.after(NOON)
    for _ in range(count):
        found.append("" if tick is None else f"{tick:%a %H:%M:%S}")
        tick = tick and schedule.after(tick)
    return found


# What each row promises, shown on the schedule that its right column makes.
SHOWN: dict[str, Callable[[Schedule], bool]] = {
    "Celery `crontab(minute=30, hour=7, day_of_week=1)`": lambda s: nexts(s) == ["Mon 07:30:00"] * 2,
    'Celery `crontab(minute=0, hour=9, day_of_month="1-7", day_of_week=1)`': lambda s: (
        [s.after(NOON), s.after(NOON + timedelta(days=7))]
        == [datetime(2100, 6, 7, 9, tzinfo=UTC), datetime(2100, 7, 5, 9, tzinfo=UTC)]
    ),
    'Celery `crontab(minute=0, hour="*/3")`': lambda s: nexts(s) == ["Tue 15:00:00", "Tue 18:00:00"],
    'Celery `"schedule": 30.0`': lambda s: nexts(s) == ["Tue 12:00:30", "Tue 12:01:00"],
    'Celery `"schedule": timedelta(minutes=5)`': lambda s: nexts(s) == ["Tue 12:05:00", "Tue 12:10:00"],
    'Celery `"options": {"expires": 280}`': lambda s: (
        s.expires_at(NOON) == NOON + timedelta(seconds=280)
        and '"expires_at": "2100-06-01T12:04:40+00:00"' in str(s.job_of(NOON).headers)
    ),
    'Celery `"options": {"queue": "bulk", "priority": 5}`': lambda s: (s.job.queue, s.job.priority) == ("bulk", 5),
    'Celery `timezone = "Europe/Paris"`': lambda s: nexts(s, 1) == ["Wed 05:00:00"],
    'APScheduler `"cron", hour=7, minute=30`': lambda s: nexts(s, 1) == ["Wed 07:30:00"],
    'APScheduler `"interval", hours=2, start_date=moment`': lambda s: nexts(s) == ["Tue 12:10:00", "Tue 14:10:00"],
    'APScheduler `"date", run_date=moment`': lambda s: nexts(s) == ["Tue 12:10:00", ""],
    "APScheduler `OrTrigger([…])`, at 7 on weekdays and at 9 on Saturdays": lambda s: (
        nexts(s, 4) == ["Wed 07:00:00", "Thu 07:00:00", "Fri 07:00:00", "Sat 09:00:00"]
    ),
    "APScheduler `AndTrigger([…])`, at 9 on a Monday among the first seven days": lambda s: (
        nexts(s, 1) == ["Mon 09:00:00"] and s.after(NOON).day == 7
    ),
    "APScheduler `coalesce=True`": lambda s: len(passed(s, 5).fires) == 1,
    "APScheduler `coalesce=False`": lambda s: len(passed(s, 5).fires) == 5,
    "APScheduler `misfire_grace_time=30`": lambda s: [len(passed(s, 1, late).fires) for late in (30, 31)] == [1, 0],
    "APScheduler `max_instances=3`": lambda s: [len(passed(s, 1, live=live).fires) for live in (2, 3)] == [1, 0],
}
REPLACE = "APScheduler `replace_existing=True`"


def test_the_table_of_other_schedulers_has_no_row_that_is_not_shown() -> None:
    assert set(ROWS) == {*SHOWN, REPLACE}


@pytest.mark.parametrize("row", SHOWN)
def test_what_other_schedulers_call_it_is_what_the_table_says(row: str) -> None:
    app = App("unused")
    names = {"declare": app.schedules.declare, "timedelta": timedelta, "moment": NOON + 10 * MINUTE}
    schedule = eval(f"declare('s', 't', {ROWS[row]})".replace("\\|", "|"), names)
    assert SHOWN[row](schedule)


def test_replacing_is_what_the_table_says(app: App) -> None:
    for _ in range(2):
        eval(f"create('s', 't', {ROWS[REPLACE]})", {"create": app.schedules.create})
    assert [one.name for one in app.schedules.list()] == ["s"]
