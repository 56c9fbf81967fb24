"""Celery's schedules as plans: `crontab` by Celery's own rule, and intervals.

Celery joins the day of the month and the day of the week by *and*, where cron joins them by *or*. Weekdays in whole
weeks of the month are an exact cron expression (`1#1` is the first Monday); any other pair is an RRULE, of which a day
has 24 times at most."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from pgqueue.errors import InvalidPlan
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import Every, Plan, RRule

Field: TypeAlias = int | str | Iterable[int]
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_RRULE_DAYS = ("SU", "MO", "TU", "WE", "TH", "FR", "SA")
_WEEKS = (range(1, 8), range(8, 15), range(15, 22), range(22, 29), range(29, 32))
_START = datetime(2026, 1, 1, tzinfo=UTC)  # of RRULEs: fixed, so that each process makes the same plan
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day_of_week", 0, 6), ("day_of_month", 1, 31), ("month_of_year", 1, 12))
_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]+))?")


class ParseException(InvalidPlan):
    """A field of a crontab cannot be read."""


class schedule:  # noqa: N801  # Celery's name
    """An interval: seconds or a timedelta. It is counted from 1970 and never drifts; Celery counts from the last run.

    `relative` makes no difference then: both round to the interval.
    """

    def __init__(
        self, run_every: float | timedelta, relative: bool = False, nowfun: Any = None, app: Any = None
    ) -> None:
        _refuse_clock(nowfun)
        self.run_every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        self.relative = relative

    def __repr__(self) -> str:
        return f"<freq: {self.run_every.total_seconds():g} seconds>"

    def plan(self, timezone: str) -> Plan:
        """Return the plan of a schedule. Raises InvalidPlan for less than a second, and more than a year."""
        return Every(self.run_every.total_seconds(), timezone)


@dataclass(frozen=True, init=False)
class crontab:  # noqa: N801  # Celery's name
    """A plan by Celery's crontab: each field is a number, a text such as "*/15,3-5", or numbers; all fields must
    match."""

    minute: frozenset[int]
    hour: frozenset[int]
    day_of_week: frozenset[int]
    day_of_month: frozenset[int]
    month_of_year: frozenset[int]

    def __init__(
        self,
        minute: Field = "*",
        hour: Field = "*",
        day_of_week: Field = "*",
        day_of_month: Field = "*",
        month_of_year: Field = "*",
        **other: Any,
    ) -> None:
        _refuse_clock(other.pop("nowfun", None))
        other.pop("app", None)
        if other:
            raise ParseException(f"crontab has no field {sorted(other)[0]!r}: give {', '.join(n for n, *_ in _FIELDS)}")
        given = (minute, hour, day_of_week, day_of_month, month_of_year)
        for (name, least, most), value in zip(_FIELDS, given, strict=True):
            object.__setattr__(self, name, _expanded(name, value, least, most))

    @classmethod
    def from_string(cls, text: str) -> "crontab":
        """Return the crontab of a text of five fields: minute, hour, day of the month, month, day of the week."""
        fields = text.split()
        if len(fields) != 5:
            raise ParseException(f"crontab {text!r:.100} cannot be used: give five fields")
        minute, hour, day, month, weekday = fields
        return cls(minute, hour, weekday, day, month)

    def __repr__(self) -> str:
        return f"<crontab: {' '.join(self._fields(self._days(), self._weekdays()))} (m/h/dM/MY/d)>"

    def plan(self, timezone: str) -> Plan:
        """Return the plan: a cron expression where one means the same, else an RRULE.

        Raises InvalidPlan where neither can say it: more than 24 times on a day that both day fields choose.
        """
        if self._all_days or self._all_weekdays:
            return Cron(" ".join(self._fields(self._days(), self._weekdays())), timezone)
        weeks = self._whole_weeks()
        if weeks is not None:
            both = ",".join(f"{day}#{week}" for week in weeks for day in sorted(self.day_of_week))
            return Cron(" ".join(self._fields("*", both)), timezone)
        if len(self.minute) * len(self.hour) > 24:
            raise InvalidPlan(
                f"{self!r} cannot be used: its day of the month and its day of the week must both match, which a rule "
                "can say for 24 times a day at most; give one of the two, and test the other in the task"
            )
        return RRule(self._rule(), _START, timezone)

    @property
    def _all_days(self) -> bool:
        return len(self.day_of_month) == 31

    @property
    def _all_weekdays(self) -> bool:
        return len(self.day_of_week) == 7

    def _days(self) -> str:
        return _field(self.day_of_month, 1, 31)

    def _weekdays(self) -> str:
        return _field(self.day_of_week, 0, 6)

    def _fields(self, days: str, weekdays: str) -> tuple[str, ...]:
        return _field(self.minute, 0, 59), _field(self.hour, 0, 23), days, _field(self.month_of_year, 1, 12), weekdays

    def _whole_weeks(self) -> list[int] | None:
        """Return which weeks of the month the days are, counted from 1; None where they are not whole weeks."""
        weeks = [number for number, week in enumerate(_WEEKS, 1) if self.day_of_month >= set(week)]
        return weeks if sum(len(_WEEKS[number - 1]) for number in weeks) == len(self.day_of_month) else None

    def _rule(self) -> str:
        numbers = {
            "BYMONTH": self.month_of_year,
            "BYMONTHDAY": self.day_of_month,
            "BYHOUR": self.hour,
            "BYMINUTE": self.minute,
        }
        texts = (f"{name}={','.join(str(one) for one in sorted(values))}" for name, values in numbers.items())
        days = ",".join(_RRULE_DAYS[day] for day in sorted(self.day_of_week))
        return ";".join(["FREQ=YEARLY", *texts, f"BYDAY={days}", "BYSECOND=0"])


def as_celery_plan(given: object, timezone: str) -> Plan:
    """Return the plan of an entry of `beat_schedule`: a crontab, a schedule, seconds or a timedelta."""
    if isinstance(given, (schedule, crontab)):
        return given.plan(timezone)
    if isinstance(given, (int, float, timedelta)) and not isinstance(given, bool):
        return schedule(given).plan(timezone)
    raise InvalidPlan(f"schedule {given!r:.100} cannot be used: give crontab(…), a number of seconds or a timedelta")


def _refuse_clock(nowfun: object) -> None:
    if nowfun is not None:
        raise InvalidPlan("nowfun=… cannot be used: the database's clock decides; conf.timezone gives the timezone")


def _expanded(name: str, given: Field, least: int, most: int) -> frozenset[int]:
    if isinstance(given, str):
        numbers = {number for part in given.split(",") for number in _part(name, part.strip(), least, most)}
    elif isinstance(given, int):
        numbers = {given}
    elif isinstance(given, Iterable):
        numbers = set(given)
    else:
        raise ParseException(f"crontab({name}={given!r:.100}) cannot be used: give a number, a text or numbers")
    if not numbers or not all(type(number) is int and least <= number <= most for number in numbers):
        raise ParseException(f"crontab({name}={given!r:.100}) cannot be used: give {least} to {most}")
    return frozenset(numbers)


def _part(name: str, part: str, least: int, most: int) -> Iterator[int]:
    found = _PART.fullmatch(part.lower())
    if found is None:
        raise ParseException(f"crontab({name}=…): {part!r:.100} cannot be used: give 3, 3-5, *, */15 or 3-30/5")
    star, first, last, step = found.groups()
    low = least if star else _number(name, first)
    high = most if star else _number(name, last or first)
    if step == "0" or (step and not star and last is None):
        raise ParseException(f"crontab({name}=…): {part!r:.100} cannot be used: give a step of a range, such as 3-30/5")
    if not (least <= low <= most and least <= high <= most):
        raise ParseException(f"crontab({name}=…): {part!r:.100} cannot be used: give {least} to {most}")
    # Celery lets a range wrap: sat-mon
    whole = [*range(low, high + 1)] if low <= high else [*range(low, most + 1), *range(least, high + 1)]
    yield from whole[:: int(step or 1)]


def _number(name: str, text: str) -> int:
    if text.isdecimal():
        return int(text)
    days = [at for at, day in enumerate(_DAYS) if name == "day_of_week" and text in (day, day[:3])]
    if not days:
        raise ParseException(f"crontab({name}=…): {text!r:.100} cannot be used: give a number, or a day of the week")
    return days[0]


def _field(numbers: frozenset[int], least: int, most: int) -> str:
    """Return a set of numbers as cron writes it: `*`, `*/15`, or a list."""
    ordered = sorted(numbers)
    if len(ordered) == most - least + 1:
        return "*"
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 0
    if step > 1 and ordered == list(range(least, most + 1, step)):
        return f"*/{step}"
    return ",".join(str(number) for number in ordered)
