"""When a schedule ticks: plans are values, the next tick a pure function of a moment."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pgqueue.errors import InvalidOption, InvalidPlan
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
_INTERVALS = "give 1 second to 366 days"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _check_timezone(name: object) -> None:
    try:
        ZoneInfo(name)  # type: ignore[arg-type]  # whatever it is, ZoneInfo says so
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError) as error:
        raise InvalidPlan(f"timezone {name!r} is not known here: give an IANA name such as Europe/Paris") from error


@dataclass(frozen=True, slots=True)
class Cron:
    """Tick when a cron expression matches the wall clock of `timezone`.

    Five fields, or six with seconds first; names, `L`, `#` and `@daily` and its like are understood (by cronsim,
    which follows Debian's cron through daylight saving changes).
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        _check_timezone(self.timezone)
        if not isinstance(self.expression, str):
            raise InvalidPlan(f"{self.expression!r} is no cron expression: give a text such as '*/5 * * * *'")
        self.after(_EPOCH)

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        local = moment.astimezone(ZoneInfo(self.timezone))
        try:
            ticks = CronSim(_NICKNAMES.get(self.expression, self.expression), local)
            # Within the second of the two equal hours of autumn cronsim first gives a tick of the first one, which
            # has passed.
            return next(tick for tick in (one.astimezone(UTC) for one in ticks) if tick > moment)
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
        _check_timezone(self.timezone)
        if not isinstance(self.seconds, (int, float)) or not 1 <= self.seconds <= 366 * 86400:
            raise InvalidPlan(f"an interval of {self.seconds!r} seconds cannot be used: {_INTERVALS}")

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        period = timedelta(seconds=self.seconds)
        return _EPOCH + ((moment - _EPOCH) // period + 1) * period


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
            _check_timezone(timezone)
            try:
                return Every(seconds(given))
            except InvalidOption as error:
                raise InvalidPlan(f"an interval of {given!r:.100} cannot be used: {_INTERVALS}") from error
    raise InvalidPlan(f"{given!r} is no plan: give a cron expression, a number of seconds or a timedelta")


def due_ticks(plan: Plan, first: datetime, now: datetime, at_most: int) -> tuple[list[datetime], datetime]:
    """Return the ticks from `first` to `now`, the last `at_most` of them, and the tick that comes next.

    The work is bounded by `at_most`, not by how long nobody looked: the newest ticks are searched for backwards.
    """
    if first > now:
        return [], plan.after(now)
    ticks = _latest(plan, first, now, at_most)
    return ticks[-at_most:], plan.after(max(ticks[-1], now))


def _latest(plan: Plan, first: datetime, now: datetime, at_most: int) -> list[datetime]:
    """Return at least the last `at_most` ticks, by trying spans before `now` until one holds enough, not too many."""
    few, many, span = timedelta(0), None, timedelta(seconds=at_most)
    while True:
        whole = now - first <= span
        ticks = [first] if whole else []
        ticks += islice(_between(plan, first if whole else now - span, now), 4 * at_most)
        if len(ticks) >= 4 * at_most:
            many = span
        elif whole or len(ticks) >= at_most:
            return ticks
        else:
            few = span
        span = (few + many) / 2 if many else span * 2


def _between(plan: Plan, start: datetime, end: datetime) -> Iterator[datetime]:
    tick = plan.after(start)
    while tick <= end:
        yield tick
        tick = plan.after(tick)
