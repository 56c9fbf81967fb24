"""Clock changes: a table of what cron expressions do on them, and a second implementation that agrees.

The second implementation knows nothing of the first: it walks over every minute, looks what the wall clock shows, and
counts by the two rules of the docs.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from pgqueue import Cron
from pgqueue.schedules.wall_clock import next_offset_change

MINUTE = timedelta(minutes=1)
ZONES = ("Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
YEARS = (2025, 2026, 2027)
# What tests have found or might find elsewhere: a change at midnight, of two hours, of a month each Ramadan, of a day.
ODD = {
    "America/Santiago": datetime(2026, 9, 6, 4, tzinfo=UTC), "Africa/Cairo": datetime(2026, 4, 23, 22, tzinfo=UTC),
    "Antarctica/Troll": datetime(2026, 3, 29, 1, tzinfo=UTC), "Africa/Casablanca": datetime(2026, 2, 15, 2, tzinfo=UTC),
    "Pacific/Apia": datetime(2011, 12, 30, 10, tzinfo=UTC),
}  # fmt: skip
EXPRESSIONS = (
    "30 2 * * *", "0 2 * * *", "0 3 * * *", "15 2 * * *", "45 1 * * *", "0,30 1-3 * * *", "5 2 * * sun", "0 0 * * *",
    "*/15 * * * *", "0 * * * *", "30 * * * *", "*/15 2 * * *", "*/15 3 * * *", "10 */2 * * *", "* 1-2 * * *",
    "*/20 0 * * *", "30 0 1 * *", "0 30 2 * * *", "0 */30 * * * *",
)  # fmt: skip


def changes(zone: str) -> list[datetime]:
    """When the clocks of a zone change."""
    found, moment = [], datetime(YEARS[0], 1, 1, tzinfo=UTC)
    while change := next_offset_change(ZoneInfo(zone), moment, datetime(YEARS[-1] + 1, 1, 1, tzinfo=UTC)):
        found.append(change)
        moment = change
    return found


TABLE = [
    # zone, expression, from (UTC), the ticks that follow in UTC
    ("Europe/Paris", "30 2 * * *", "2026-03-28 02:00", ["03-29 01:00", "03-30 00:30"]),
    ("Europe/Paris", "30 2 * * *", "2026-10-24 22:00", ["10-25 00:30", "10-26 01:30"]),
    ("Europe/Paris", "0 2,3 * * *", "2026-03-28 22:00", ["03-29 01:00", "03-30 00:00"]),
    ("Europe/Paris", "*/30 * * * *", "2026-03-29 00:00", ["03-29 00:30", "03-29 01:00", "03-29 01:30"]),
    ("Europe/Paris", "*/30 2 * * *", "2026-03-28 22:00", ["03-30 00:00", "03-30 00:30"]),
    ("Europe/Paris", "*/30 2 * * *", "2026-10-24 22:00", ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30"]),
    ("America/New_York", "30 2 * * *", "2026-03-07 20:00", ["03-08 07:00", "03-09 06:30"]),
    ("America/New_York", "30 1 * * *", "2026-10-31 20:00", ["11-01 05:30", "11-02 06:30"]),
    ("America/New_York", "30 * * * *", "2026-11-01 04:00", ["11-01 04:30", "11-01 05:30", "11-01 06:30"]),
    ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03 00:00", ["10-03 15:30", "10-04 15:15"]),
    ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04 00:00", ["04-04 14:45", "04-05 15:15"]),
    ("Australia/Lord_Howe", "*/15 2 * * *", "2026-10-03 00:00", ["10-03 15:30", "10-03 15:45", "10-04 15:00"]),
    ("Australia/Lord_Howe", "*/15 3 * * *", "2026-10-03 12:00", ["10-03 16:00", "10-03 16:15", "10-03 16:30"]),
    ("Australia/Lord_Howe", "*/15 2 * * *", "2026-04-04 12:00", ["04-04 15:30", "04-04 15:45", "04-04 16:00"]),
    ("Asia/Kolkata", "30 2 * * *", "2026-03-28 12:00", ["03-28 21:00", "03-29 21:00"]),
    ("UTC", "30 2 * * *", "2026-03-28 12:00", ["03-29 02:30", "03-30 02:30"]),
]


@pytest.mark.parametrize(("zone", "expression", "start", "expected"), TABLE, ids=lambda v: v if v in ZONES else "")
def test_the_table(zone: str, expression: str, start: str, expected: list[str]) -> None:
    plan, moment, found = Cron(expression, zone), datetime.fromisoformat(start).replace(tzinfo=UTC), []
    for _ in expected:
        moment = plan.after(moment)
        found.append(moment.strftime("%m-%d %H:%M"))
    assert found == expected


def test_the_zones_of_the_table_change_as_often_as_they_do() -> None:
    assert {zone: len(changes(zone)) for zone in ZONES} == {
        "Europe/Paris": 6, "America/New_York": 6, "Australia/Lord_Howe": 6, "Asia/Kolkata": 0, "UTC": 0,
    }  # fmt: skip


def field(text: str, least: int, most: int) -> set[int]:
    """The numbers that one field of an expression stands for."""
    found: set[int] = set()
    for part in text.replace("sun", "0").split(","):
        span, _, step = part.partition("/")
        low, _, high = span.partition("-")
        start, end = (least, most) if span == "*" else (int(low), int(high or low))
        found |= set(range(start, end + 1, int(step or 1)))
    return found


class Brute:
    """The ticks of an expression, by looking at each minute."""

    def __init__(self, expression: str, zone: str) -> None:
        parts = expression.split()[-5:]
        self._zone = ZoneInfo(zone)
        self._once = not any(part.startswith("*") for part in parts[:2])
        bounds = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
        self._sets = [field(part, *bound) for part, bound in zip(parts, bounds, strict=True)]

    def _match(self, shown: datetime) -> bool:
        values = (shown.minute, shown.hour, shown.day, shown.month, shown.isoweekday() % 7)
        return all(value in allowed for value, allowed in zip(values, self._sets, strict=True))

    def ticks(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Each time: whenever the clock shows a match. Once: when the clock first reaches or passes a match."""
        moment = start - timedelta(days=2)
        reached = moment.astimezone(self._zone).replace(tzinfo=None)
        while moment <= end:
            shown = moment.astimezone(self._zone).replace(tzinfo=None)
            if not self._once:
                ticks = self._match(shown)
            else:
                passed = range(1, int((shown - reached) / MINUTE) + 1)
                ticks = any(self._match(reached + n * MINUTE) for n in passed)
                reached = max(reached, shown)
            if ticks and moment >= start:
                yield moment
            moment += MINUTE


def agree(expression: str, zone: str, start: datetime, end: datetime) -> tuple[int, int]:
    """Both implementations find the same ticks, and from every 13th minute between two the same next one. Return how
    many ticks there were, and how many minutes were asked from."""
    plan, brute = Cron(expression, zone), list(Brute(expression, zone).ticks(start, end))
    found, moment = [], plan.after(start - timedelta(microseconds=1))
    while moment <= end:
        found.append(moment)
        moment = plan.after(moment)
    assert found == brute, f"{expression} in {zone} from {start}"
    asked = 0
    for before, tick in pairwise(brute):
        for minute in range(0, int((tick - before) / MINUTE), 13):
            assert plan.after(before + minute * MINUTE) == tick
            asked += 1
    return len(found), asked


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("zone", [zone for zone in ZONES if changes(zone)])
def test_a_second_implementation_agrees_around_each_change_of_three_years(zone: str, expression: str) -> None:
    for change in changes(zone):
        agree(expression, zone, change - timedelta(hours=4), change + timedelta(hours=6))


@pytest.mark.parametrize("zone", ODD)
def test_a_second_implementation_agrees_where_clocks_change_at_odd_times(zone: str) -> None:
    for expression in EXPRESSIONS:
        agree(expression, zone, ODD[zone] - timedelta(hours=8), ODD[zone] + timedelta(hours=14))


@pytest.mark.stress
@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("zone", ZONES)
def test_a_second_implementation_agrees_over_three_whole_years(zone: str, expression: str) -> None:
    start, end = datetime(YEARS[0], 1, 1, tzinfo=UTC), datetime(YEARS[-1] + 1, 1, 1, tzinfo=UTC)
    ticks, asked = agree(expression, zone, start, end)
    print(f"{expression} in {zone}: {ticks} ticks, {asked} moments asked from")


@pytest.mark.parametrize("zone", ["Europe/Paris", "Australia/Lord_Howe"])
def test_seconds_go_on_through_a_change(zone: str) -> None:
    plan, change = Cron("*/20 * * * * *", zone), changes(zone)[0]
    moment, found = change - timedelta(seconds=50), []
    while moment < change + timedelta(seconds=40):
        moment = plan.after(moment)
        found.append(moment)
    assert [b - a for a, b in pairwise(found)] == [timedelta(seconds=20)] * (len(found) - 1)


def test_six_fields_for_a_time_of_the_day_do_as_five() -> None:
    for change in changes("Europe/Paris"):
        five, six = Cron("30 2 * * *", "Europe/Paris"), Cron("0 30 2 * * *", "Europe/Paris")
        assert five.after(change - timedelta(hours=9)) == six.after(change - timedelta(hours=9))
