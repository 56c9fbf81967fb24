"""What an answer means for the job: done, tried again and when, or given up."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER = 86_400.0  # a receiver may postpone a job, but not for good
# The receiver will not take this request the next time either, or wants none any more (410).
PERMANENT = frozenset({400, 405, 410, 411, 413, 414, 415, 422, 431, 501, 505})
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds for which `Retry-After` asks, 86,400 at most; None without one that can be read.

    A date is counted from the answer's own `Date`, so that clocks which differ do no harm.
    """
    asked = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(asked):
        return min(float(asked), MAX_RETRY_AFTER)
    moment = _moment(asked)
    if moment is None:
        return None
    answered = _moment(headers.get("date", "")) or datetime.now(UTC)
    return min(max((moment - answered).total_seconds(), 0.0), MAX_RETRY_AFTER)


def _moment(text: str) -> datetime | None:
    """Return an HTTP date; None for any other text."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
