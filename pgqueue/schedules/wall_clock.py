"""Local time: from moments to the time that a wall clock shows and back, through changes of the offset from UTC."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgqueue.errors import InvalidPlan

SECOND = timedelta(seconds=1)
_STEP = timedelta(hours=12)  # no zone changes its offset and back within less


def check_timezone(name: object) -> None:
    """Refuse anything but an IANA name that this machine knows."""
    try:
        ZoneInfo(name)  # type: ignore[arg-type]  # ZoneInfo raises for anything else
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError) as error:
        raise InvalidPlan(
            f"timezone {name!r} is unknown on this machine: give an IANA name such as Europe/Paris"
        ) from error


def utc_offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    """Return how much the wall clock is ahead of UTC at a moment."""
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def wall_time(zone: ZoneInfo, moment: datetime) -> datetime:
    """Return the time that the wall clock shows at a moment, as a naive one."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def first_moment(zone: ZoneInfo, shown: datetime) -> datetime:
    """Return the moment when the wall clock first shows a naive time; if it leaps over it, the moment of the leap."""
    before, after = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if wall_time(zone, before) == shown:
        return before
    return next_offset_change(zone, after, before) or before


def next_offset_change(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """Return the first moment after `start`, up to `end`, at which the offset differs from that at `start`."""
    was, low = utc_offset(zone, start), start.replace(microsecond=0)
    while low < end:
        high = min(low + _STEP, end)
        if utc_offset(zone, high) != was:
            return _bisect(zone, was, low, high)
        low = high
    return None


def _bisect(zone: ZoneInfo, was: timedelta, low: datetime, high: datetime) -> datetime:
    """Return the first whole second without the offset `was`: `low` has it, and `high` has it not."""
    while high - low > SECOND:
        middle = low + (high - low) // (2 * SECOND) * SECOND
        low, high = (middle, high) if utc_offset(zone, middle) == was else (low, middle)
    return low + SECOND
