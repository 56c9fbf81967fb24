"""Plans: values that say when a schedule ticks. The next tick is a pure function of a moment."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Protocol, TypeAlias
from zoneinfo import ZoneInfo

from pgqueue.errors import InvalidPlan
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.rule import check_rule, times_after
from pgqueue.schedules.wall_clock import check_timezone, first_moment, wall_time
from pgqueue.timing import INTERVAL, check_duration

__all__ = ["At", "Cron", "Every", "Plan", "RRule", "Span", "as_plan", "newest_ticks", "passed_ticks"]

_SECONDS = replace(INTERVAL, timedeltas=False)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_moment(what: str, moment: object) -> datetime:
    """Return an aware datetime of the years 1900 to 9000, in UTC. Raises InvalidPlan for anything else."""
    if not isinstance(moment, datetime) or moment.utcoffset() is None or not 1900 <= moment.year <= 9000:
        raise InvalidPlan(f"{what}={moment!r} cannot be used: give an aware datetime of the years 1900 to 9000")
    return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Every:
    """Tick every `seconds`, counted from `anchor` (1970-01-01 UTC): restarts and delays never make it drift.

    An hour is always 3600 seconds, also when clocks change.
    """

    seconds: float
    timezone: str = "UTC"
    anchor: datetime | None = None

    def __post_init__(self) -> None:
        check_timezone(self.timezone)
        check_duration("every", self.seconds, _SECONDS, InvalidPlan)
        if self.anchor is not None:
            object.__setattr__(self, "anchor", check_moment("anchor", self.anchor))

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        anchor, period = self.anchor or _EPOCH, timedelta(seconds=self.seconds)
        return anchor + ((moment - anchor) // period + 1) * period


@dataclass(frozen=True, slots=True)
class At:
    """Tick once, at `moment`."""

    moment: datetime
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        check_timezone(self.timezone)
        object.__setattr__(self, "moment", check_moment("at", self.moment))

    def after(self, moment: datetime) -> datetime | None:
        """Return the tick, in UTC, if it is after `moment`."""
        return self.moment if self.moment > moment else None


@dataclass(frozen=True, slots=True)
class RRule:
    """Tick by an iCalendar rule, such as `FREQ=MONTHLY;BYDAY=-1FR`, on the wall clock of `timezone` from `anchor` on.

    Needs the extra `pgqueue-jobs[rrule]`. Daily or less often; when clocks change it ticks as a cron expression for
    times of the day does.
    """

    rule: str
    anchor: datetime
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        check_timezone(self.timezone)
        object.__setattr__(self, "anchor", check_moment("start", self.anchor))
        check_rule(self.rule)
        if self.after(self.anchor - timedelta(seconds=1)) is None:
            raise InvalidPlan(f"RRULE {self.rule!r} never matches any date after {self.anchor}")

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after `moment`, in UTC; None after the last one."""
        zone = ZoneInfo(self.timezone)
        times = times_after(self.rule, wall_time(zone, self.anchor), wall_time(zone, moment).replace(microsecond=0))
        moments = (first_moment(zone, shown) for shown in times)
        return next((tick for tick in moments if tick > moment), None)


Plan: TypeAlias = Cron | Every | At | RRule


class Ticks(Protocol):
    """Anything that has ticks: a plan, a span of one, or a schedule."""

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after `moment`."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """The ticks of a plan from `start` to `end`, both included."""

    plan: Plan
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_moment(name, getattr(self, name)))
        if self.start and self.end and self.end < self.start:
            raise InvalidPlan(f"end={self.end} is before start={self.start}")

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after `moment`, in UTC; None after the last one."""
        if self.start is not None and moment < self.start:
            moment = self.start - timedelta(microseconds=1)
        tick = self.plan.after(moment)
        return None if tick is None or (self.end is not None and tick > self.end) else tick


def as_plan(
    given: str | float | timedelta | datetime | Plan, timezone: str = "UTC", start: datetime | None = None
) -> Plan:
    """Return the plan for an argument of `schedule(…)`: a cron expression, an interval (seconds or timedelta), a moment
    or a plan. An interval counts from `start`, if there is one.
    """
    match given:
        case Every(anchor=None) if start is not None:
            return replace(given, anchor=start)
        case Cron() | Every() | At() | RRule():
            return given
        case str():
            return Cron(given, timezone)
        case datetime():
            return At(given, timezone)
        case bool():
            pass
        case int() | float() | timedelta():
            check_timezone(timezone)
            return Every(check_duration("every", given, INTERVAL, InvalidPlan), anchor=start)
    raise InvalidPlan(
        f"{given!r} is no plan: give a cron expression, a number of seconds or a timedelta, an aware datetime, "
        "or an RRule"
    )


def passed_ticks(plan: Ticks, first: datetime, now: datetime, at_most: int) -> tuple[list[datetime], datetime | None]:
    """Return the oldest `at_most` ticks from `first` to `now`, and the tick after those."""
    ticks: list[datetime] = []
    tick: datetime | None = first
    while tick is not None and tick <= now and len(ticks) < at_most:
        ticks.append(tick)
        tick = plan.after(tick)
    return ticks, tick


def newest_ticks(plan: Ticks, first: datetime, now: datetime, at_most: int) -> list[datetime]:
    """Return the last `at_most` ticks from `first` to `now`.

    The work is bounded by `at_most` and not by the time since `first`: the search goes backwards, trying spans of time
    before `now` until one holds enough ticks, and not too many.
    """
    few, many, span = timedelta(0), None, timedelta(seconds=at_most)
    while True:
        whole = now - first <= span
        ticks = [first] if whole and first <= now else []
        ticks += islice(_between(plan, first if whole else now - span, now), 4 * at_most)
        if len(ticks) >= 4 * at_most:
            many = span
        elif whole or len(ticks) >= at_most:
            return ticks[-at_most:]
        else:
            few = span
        span = (few + many) / 2 if many else span * 2


def ticks_after(plan: Ticks, moment: datetime) -> Iterator[datetime]:
    """Yield the ticks after a moment, to the last one."""
    tick = plan.after(moment)
    while tick is not None:
        yield tick
        tick = plan.after(tick)


def _between(plan: Ticks, start: datetime, end: datetime) -> Iterator[datetime]:
    tick = plan.after(start)
    while tick is not None and tick <= end:
        yield tick
        tick = plan.after(tick)
