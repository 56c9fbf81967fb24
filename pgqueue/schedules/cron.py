"""Cron expressions. cronsim finds the local times that match; this module finds their moments when clocks change."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgqueue.errors import InvalidPlan
from pgqueue.schedules.wall_clock import SECOND, check_timezone, first_moment, next_offset_change, utc_offset, wall_time

_NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# The fields from the last to the first, and how many values each has: a step beyond that would match one of them only.
_FIELDS = (("day-of-week", 7), ("month", 12), ("day-of-month", 31), ("hour", 24), ("minute", 60), ("second", 60))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_TRIES = 5000  # to find a moment at which several expressions match


@dataclass(frozen=True, slots=True)
class Cron:
    """Tick when a cron expression matches the wall clock of `timezone`.

    Five fields, or six with seconds first; names, `L`, `#`, `@daily` and the other nicknames work. Expressions are
    combined by `|`, where one of them is to match, and by `&`, which binds closer, where all are to match at once:
    `30 7 * * 1-5 | 0 9 * * 6`.

    When clocks change each expression follows Debian's cron. An expression for times of the day (neither its minute nor
    its hour begins with `*`) ticks once for each time: if the clock leaps over it in spring, at the moment of the leap;
    if the clock shows it twice in autumn, the first time. An expression with `*` there ticks whenever the clock shows a
    match: never for a time that the clock leaps over, twice for a time that it shows twice.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        check_timezone(self.timezone)
        if not isinstance(self.expression, str):
            raise InvalidPlan(f"{self.expression!r} is no cron expression: give text such as '*/5 * * * *'")
        for together in self.parts:
            for part in together:
                part.check()
        self.after(_EPOCH)

    @property
    def parts(self) -> list[list["CronPart"]]:
        """The expressions of which one is to match; those of an inner list match together."""
        if "|" not in self.expression and "&" not in self.expression:
            return [[CronPart(self.expression, self.timezone)]]
        return [
            [CronPart(text.strip(), self.timezone) for text in either.split("&")]
            for either in self.expression.split("|")
        ]

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        return min(self._together(parts, moment) for parts in self.parts)

    def _together(self, parts: list["CronPart"], moment: datetime) -> datetime:
        """Return the first moment at which all of these tick: each goes on to the latest tick of them."""
        for _ in range(MOST_TRIES):
            ticks = [part.after(moment) for part in parts]
            latest = max(ticks)
            if latest == min(ticks):
                return latest
            moment = latest - SECOND
        raise InvalidPlan(f"cron expression {self.expression!r} never matches: its parts do not tick at one moment")


@dataclass(frozen=True, slots=True)
class CronPart:
    """One expression of a Cron."""

    expression: str
    timezone: str

    def check(self) -> None:
        """Raise InvalidPlan for an expression that matches nothing, or hardly anything."""
        self.after(_EPOCH)
        for (name, values), field in zip(_FIELDS, reversed(self.fields.split()), strict=False):
            for step in re.findall(r"/(\d+)", field):
                if int(step) > values:
                    raise InvalidPlan(
                        f"cron expression {self.expression!r} cannot be used: the {name} has {values} values, so a "
                        f"step of {step} matches one of them only; for an interval give seconds or a timedelta instead"
                    )

    @property
    def fields(self) -> str:
        """The expression; for a nickname, the fields that it stands for."""
        return _NICKNAMES.get(self.expression, self.expression)

    @property
    def names_times_of_day(self) -> bool:
        """Whether neither its minute nor its hour begins with `*`."""
        return not any(field.startswith("*") for field in self.fields.split()[-5:-3])

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after `moment`, in UTC."""
        zone = ZoneInfo(self.timezone)
        try:
            return self._first_time(zone, moment) if self.names_times_of_day else self._each_time(zone, moment)
        except CronSimError as error:
            raise InvalidPlan(
                f"cron expression {self.expression!r} cannot be used: {error} "
                "(minute hour day-of-month month day-of-week, or @daily and its like)"
            ) from error
        except StopIteration:
            raise InvalidPlan(f"cron expression {self.expression!r} never matches any date") from None

    def _matches(self, shown: datetime) -> Iterator[datetime]:
        """Yield the naive times after `shown` that match. cronsim gets no timezone: through a change of half an hour it
        would leave out ticks (Australia/Lord_Howe), and in an hour that comes twice begin in the past."""
        return CronSim(self.fields, shown)

    def _first_time(self, zone: ZoneInfo, moment: datetime) -> datetime:
        moments = (first_moment(zone, shown) for shown in self._matches(wall_time(zone, moment)))
        return next(tick for tick in moments if tick > moment)

    def _each_time(self, zone: ZoneInfo, moment: datetime) -> datetime:
        """Walk the wall clock from one change of the offset to the next."""
        ahead, shown = utc_offset(zone, moment), wall_time(zone, moment)
        while True:
            tick = (next(self._matches(shown)) - ahead).replace(tzinfo=UTC)
            change = next_offset_change(zone, moment, tick)
            if change is None:
                return tick
            moment, ahead = change, utc_offset(zone, change)
            shown = wall_time(zone, change) - SECOND  # the moment of the change may itself match
