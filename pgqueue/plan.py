"""When a schedule ticks: plans are values, the next tick a pure function of a moment."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pgqueue.errors import InvalidPlan
from pgqueue.outcome import seconds

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cron:
    """Tick when a cron expression matches the wall clock of `timezone`.

    Five fields, or six with seconds first; names, `L`, `#` and `@daily` and its like are understood (by cronsim,
    which follows Debian's cron through daylight saving changes).
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InvalidPlan(
                f"timezone {self.timezone!r} is not known here: give an IANA name such as Europe/Paris"
            ) from error
        self.after(_EPOCH)

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        local = moment.astimezone(ZoneInfo(self.timezone))
        try:
            return next(CronSim(_NICKNAMES.get(self.expression, self.expression), local)).astimezone(UTC)
        except CronSimError as error:
            raise InvalidPlan(
                f"cron expression {self.expression!r} cannot be used: {error} "
                "(minute hour day-of-month month day-of-week, or @daily and its like)"
            ) from error
        except StopIteration:
            raise InvalidPlan(f"cron expression {self.expression!r} never matches any date") from None


@dataclass(frozen=True, slots=True)
class Every:
    """Tick each `seconds`, anchored to 1970-01-01 UTC: restarts and delays never make it drift."""

    seconds: float
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= 366 * 86400:
            raise InvalidPlan(f"an interval of {self.seconds!r} seconds cannot be used: give 1 second to 366 days")

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        period = timedelta(seconds=self.seconds)
        return _EPOCH + (math.floor((moment - _EPOCH) / period) + 1) * period


Plan: TypeAlias = Cron | Every


def as_plan(given: str | float | timedelta | Plan, timezone: str = "UTC") -> Plan:
    """Return the plan that `schedule(…)` means: a cron expression, or an interval in seconds or as timedelta."""
    match given:
        case Cron() | Every():
            return given
        case str():
            return Cron(given, timezone)
        case bool():
            pass
        case int() | float() | timedelta():
            return Every(seconds(given))
    raise InvalidPlan(f"{given!r} is no plan: give a cron expression, a number of seconds or a timedelta")


def due_ticks(plan: Plan, first: datetime, now: datetime, at_most: int) -> tuple[list[datetime], datetime]:
    """Return the ticks from `first` to `now`, the last `at_most` of them, and the tick that comes next.

    After a long downtime the oldest ticks are left out by searching from a moment shortly before `now`: the work
    is bounded by `at_most`, not by how long nobody looked.
    """
    ticks: list[datetime] = []
    if first <= now:
        ticks = [first, *_between(plan, first, now, 4 * at_most)]
    if ticks and plan.after(ticks[-1]) <= now:
        ticks = _latest(plan, first, now, at_most)
    return ticks[-at_most:], plan.after(max(ticks[-1], now) if ticks else now)


def _between(plan: Plan, start: datetime, end: datetime, at_most: int) -> Iterator[datetime]:
    def ticks() -> Iterator[datetime]:
        tick = plan.after(start)
        while tick <= end:
            yield tick
            tick = plan.after(tick)

    return islice(ticks(), at_most)


def _latest(plan: Plan, first: datetime, now: datetime, at_most: int) -> list[datetime]:
    span = timedelta(seconds=at_most)
    while True:
        start = max(first, now - span)
        ticks = list(_between(plan, start, now, 4 * at_most))
        if plan.after(ticks[-1] if ticks else start) > now and (len(ticks) >= at_most or start == first):
            return ticks
        span = span * 2 if len(ticks) < at_most else span / 2
