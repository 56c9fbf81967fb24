"""Moments as people write them, on the command line and in the address of a page."""

from datetime import UTC, datetime, timedelta

from pgqueue.errors import InvalidOption
from pgqueue.timing import read_span


def read_moment(option: str, text: str | None) -> datetime | None:
    """Read an age such as 2h, or a time with its zone; None stays None. Raises InvalidOption."""
    if text is None:
        return None
    if (ago := read_span(text)) is not None:
        try:
            return datetime.now(UTC) - timedelta(seconds=ago)
        except OverflowError:
            raise InvalidOption(f"{option} {text!r:.100} cannot be used: that is before the first year") from None
    return read_time(option, text, "an age such as 2h, or ")


def read_time(option: str, text: str, otherwise: str = "") -> datetime:
    """Read a time with its zone. Raises InvalidOption, which says what may be given `otherwise`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise InvalidOption(f"{option} {text!r:.100} cannot be used: give {otherwise}a time with its zone")
    return moment
