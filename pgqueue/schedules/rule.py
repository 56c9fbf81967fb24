"""iCalendar rules within bounds: whatever the text of a rule, its next time is found in a second or so, or refused.

dateutil finds the times. Without bounds it never returns for INTERVAL=0, and walks day by day to the year 9999 for a
rule that never matches.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import Any

from pgqueue.errors import ConfigError, InvalidPlan

MOST_TIMES = 300_000  # from the start of a rule to the time that is looked for: 24 a day for 34 years
MOST_IN_A_DAY = 24
LONGEST = 1000  # characters
_HORIZON = 41  # years without a time after which a rule has ended: 29 February may be a Monday once in 40 years
_RARE = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_ONE_RULE = re.compile(r"(?:RRULE:)?([^\s:]+)", re.IGNORECASE)


def check_rule(rule: object) -> None:
    """Refuse anything but one rule of a frequency of a day or more, with an interval of at least 1."""
    text = _ONE_RULE.fullmatch(rule) if isinstance(rule, str) and len(rule) <= LONGEST else None
    parts = [part.partition("=") for part in text[1].upper().split(";")] if text else []
    frequencies = [value for name, _, value in parts if name == "FREQ"]
    if not frequencies or not all(value in _RARE for value in frequencies):
        raise InvalidPlan(
            f"RRULE {rule!r:.200} cannot be used: give one rule with FREQ={'|'.join(_RARE)}, of at most {LONGEST} "
            "characters, or a cron expression for more often"
        )
    if any(name == "INTERVAL" and not re.fullmatch("[1-9][0-9]{0,4}", value) for name, _, value in parts):
        raise InvalidPlan(f"RRULE {rule!r} cannot be used: give an INTERVAL of 1 to 99999")
    in_a_day = (len(set(value.split(","))) for name, _, value in parts if name in ("BYHOUR", "BYMINUTE", "BYSECOND"))
    if math.prod(in_a_day) > MOST_IN_A_DAY:
        raise InvalidPlan(
            f"RRULE {rule!r} cannot be used: it has more than {MOST_IN_A_DAY} times in a day; "
            "give a cron expression instead"
        )


def times_after(rule: str, start: datetime, moment: datetime) -> Iterator[datetime]:
    """Yield the times of a rule after a moment, naive ones of the wall clock, for the next decades."""
    year = max(moment, start).year // 10 * 10 + 10 + _HORIZON
    return _times(rule, start, min(year, 9999)).after(moment)


class _Times:
    """The times of a rule up to a year, found once and kept in order."""

    def __init__(self, rule: str, start: datetime, year: int) -> None:
        self._rule = rule
        found = _parse(rule, start)
        end = datetime(year, 1, 1)
        found._until = end if found._until is None else min(found._until, end)  # the constructor warns beside COUNT
        self._coming = iter(found)
        self._known: list[datetime] = []
        self._lock = Lock()  # plans are computed in several threads

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the times after a moment."""
        while not self._known or self._known[-1] <= moment:
            if not self._find(len(self._known)):
                return
        at = bisect_right(self._known, moment)
        while self._find(at):
            yield self._known[at]
            at += 1

    def _find(self, at: int) -> bool:
        """Find the time at an index, unless it is known; return whether there is one."""
        if at < len(self._known):
            return True
        with self._lock:
            while at >= len(self._known):
                try:
                    coming = next(self._coming, None)
                except BaseException:  # the iterator has ended in the middle: nobody may use it again
                    _times.cache_clear()
                    raise
                if coming is None:
                    return False
                if len(self._known) >= MOST_TIMES:
                    raise InvalidPlan(f"RRULE {self._rule!r} has more than {MOST_TIMES} times: give a later start")
                self._known.append(coming)
        return True


@lru_cache(64)
def _times(rule: str, start: datetime, year: int) -> _Times:
    return _Times(rule, start, year)


def _parse(rule: str, start: datetime) -> Any:
    try:
        from dateutil.rrule import rrulestr  # an extra
    except ImportError:
        raise ConfigError("RRULE needs python-dateutil: pip install 'pgqueue-jobs[rrule]'") from None
    try:
        return rrulestr(rule, dtstart=start)
    except Exception as error:  # dateutil raises many kinds of errors for a bad text
        raise InvalidPlan(f"RRULE {rule!r} cannot be used: {error} (UNTIL is a local time, without Z)") from error
