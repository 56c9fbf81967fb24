"""What a wall clock shows, and when: the moments of local times through changes of the offset from UTC."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgqueue.errors import InvalidPlan

SECOND = timedelta(seconds=1)
_LOOK = timedelta(hours=12)  # no zone changes its offset and back within less


def check_timezone(name: object) -> None:
    """Refuse what is no IANA name that this machine knows."""
    try:
        ZoneInfo(name)  # type: ignore[arg-type]  # whatever it is, ZoneInfo says so
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError) as error:
        raise InvalidPlan(f"timezone {name!r} is not known here: give an IANA name such as Europe/Paris") from error


def offset(zone: ZoneInfo, moment: datetime) -> timedelta:
    """Return by how much the wall clock is ahead of UTC."""
    return moment.astimezone(zone).utcoffset() or timedelta(0)


def wall(zone: ZoneInfo, moment: datetime) -> datetime:
    """Return what the wall clock shows, as a naive time."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def first_moment(zone: ZoneInfo, shown: datetime) -> datetime:
    """Return when the wall clock first shows a naive time, or, where it leaps over it, the moment of the leap."""
    before, after = (shown.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if wall(zone, before) == shown:
        return before
    return change_within(zone, after, before) or before


def change_within(zone: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """Return the first moment after `start`, up to `end`, at which the offset is no longer that of `start`."""
    was, low = offset(zone, start), start.replace(microsecond=0)
    while low < end:
        high = min(low + _LOOK, end)
        if offset(zone, high) != was:
            return _bisect(zone, was, low, high)
        low = high
    return None


def _bisect(zone: ZoneInfo, was: timedelta, low: datetime, high: datetime) -> datetime:
    """Return the first whole second of another offset, between one that has it still and a moment that has it not."""
    while high - low > SECOND:
        middle = low + (high - low) // (2 * SECOND) * SECOND
        low, high = (middle, high) if offset(zone, middle) == was else (low, middle)
    return low + SECOND
