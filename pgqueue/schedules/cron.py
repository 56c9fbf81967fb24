"""Cron expressions: which wall times match is cronsim's; which moments those are, also when clocks change, is ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgqueue.errors import InvalidPlan
from pgqueue.schedules.wall_clock import SECOND, change_within, check_timezone, first_moment, offset, wall

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

    Five fields, or six with seconds first; names, `L`, `#` and `@daily` and its like are understood.

    When clocks change it does as Debian's cron does. An expression for times of the day (neither its minute nor its
    hour begins with `*`) ticks once for each time: one that the clock leaps over in spring ticks at the moment of the
    leap, one that it shows twice in autumn ticks the first time. An expression with `*` there ticks whenever the clock
    shows a match: not at all for what it leaps over, twice for what it shows twice.
    """

    expression: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        check_timezone(self.timezone)
        if not isinstance(self.expression, str):
            raise InvalidPlan(f"{self.expression!r} is no cron expression: give a text such as '*/5 * * * *'")
        self.after(_EPOCH)

    @property
    def fields(self) -> str:
        """The expression without a nickname."""
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
        """Yield the naive times after `shown` that match. cronsim sees no timezone: its own way through a change of
        half an hour leaves out ticks (Australia/Lord_Howe), and its second equal hour begins in the past."""
        return CronSim(self.fields, shown)

    def _first_time(self, zone: ZoneInfo, moment: datetime) -> datetime:
        moments = (first_moment(zone, shown) for shown in self._matches(wall(zone, moment)))
        return next(tick for tick in moments if tick > moment)

    def _each_time(self, zone: ZoneInfo, moment: datetime) -> datetime:
        """Walk the wall clock from one change of the offset to the next."""
        ahead, shown = offset(zone, moment), wall(zone, moment)
        while True:
            tick = (next(self._matches(shown)) - ahead).replace(tzinfo=UTC)
            change = change_within(zone, moment, tick)
            if change is None:
                return tick
            moment, ahead = change, offset(zone, change)
            shown = wall(zone, change) - SECOND  # the moment of the change may itself match
