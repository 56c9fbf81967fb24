"""Durations, checked against named bounds; and the growing delays between the tries of a process."""

import math
import random
import re
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from pgqueue.errors import InvalidInput, InvalidOption

Seconds: TypeAlias = float | timedelta
DAY = 86400.0
MAX_DELAY = 3650 * DAY  # ten years: run_at stays a timestamp that Postgres can hold, whatever a policy returns


@dataclass(frozen=True, slots=True)
class Bounds:
    """The shortest and the longest duration that an option takes, in seconds; `timedeltas`: also as a timedelta."""

    least: float
    most: float
    timedeltas: bool = True

    def __str__(self) -> str:
        days = f" ({self.most / DAY:.0f} days)" if self.most > DAY else ""
        return f"{self.least:g} to {self.most:.0f} seconds{days}{', or a timedelta' if self.timedeltas else ''}"


DELAY = Bounds(0, MAX_DELAY)  # until a job may run
LIMIT = Bounds(0.001, MAX_DELAY)  # timeouts, windows, times to live: none of them means anything at zero
RETRY_DELAY = Bounds(0, MAX_DELAY, timedeltas=False)  # in a retry policy
INTERVAL = Bounds(1, 366 * DAY)  # between the ticks of a schedule
SPAN = Bounds(0, 366 * DAY)  # grace, delay and expiry, counted from a tick
JITTER = Bounds(0, DAY)
WAIT = Bounds(1e-6, threading.TIMEOUT_MAX)  # of a caller, for the end of a job
LEASE = Bounds(0.1, DAY, timedeltas=False)  # settings of processes
PAUSE = Bounds(0.01, DAY, timedeltas=False)
WAITED = Bounds(0.001, 366 * DAY, timedeltas=False)
SHUTDOWN = Bounds(0, DAY, timedeltas=False)
AGE = Bounds(1, 36500 * DAY)  # after which something is pruned
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN = re.compile(r"([0-9]{1,9})([smhdw])")


def seconds(duration: object) -> float:
    """Return a duration, a number of seconds or a timedelta, in seconds. Raises InvalidOption for anything else."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    try:
        if isinstance(duration, (int, float)) and not isinstance(duration, bool):
            return float(duration)
    except OverflowError:
        pass
    raise InvalidOption(f"{duration!r:.100} cannot be used: give a number of seconds or a timedelta")


def check_duration(option: str, given: object, bounds: Bounds, error: type[InvalidInput] = InvalidOption) -> float:
    """Return a duration in seconds. Raises `error` unless it is one within the bounds."""
    try:
        duration = seconds(given) if bounds.timedeltas or not isinstance(given, timedelta) else math.nan
    except InvalidOption:
        duration = math.nan
    if not bounds.least <= duration <= bounds.most:  # nor is NaN
        raise error(f"{option}={given!r:.100} cannot be used: give {bounds}")
    return duration


def check_optional_duration(option: str, given: object, bounds: Bounds) -> float | None:
    """Return a duration in seconds, or None. Raises InvalidOption unless it is one within the bounds."""
    return None if given is None else check_duration(option, given, bounds)


def read_span(text: str) -> int | None:
    """Return the seconds of a duration as people write it, such as 90s, 2h or 7d; None for any other text."""
    span = _SPAN.fullmatch(text)
    return None if span is None else int(span[1]) * UNITS[span[2]]


def check_age(option: str, given: object) -> float | None:
    """Return an age in seconds; None is for ever. Raises InvalidOption unless it is a text such as "7d" or "12h",
    "forever", None, a number of seconds or a timedelta."""
    if given is None or given == "forever":
        return None
    span = read_span(given) if isinstance(given, str) else None
    try:
        return check_duration(option, given if span is None else span, AGE)
    except InvalidOption:
        raise InvalidOption(
            f"{option}={given!r:.100} cannot be used: give a text such as '7d', '12h' or '30m', 'forever', or {AGE}"
        ) from None


def in_words(seconds: float) -> str:
    """Return a duration in its two largest units: 4m31s. A part of a second shows only below ten of them."""
    if 0 < seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f}s"
    whole = int(max(seconds, 0))
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return "".join(f"{number}{unit}" for number, unit in parts[first : first + 2])


def monotonic() -> float:
    """Return the seconds of a clock that never steps back, for waits inside one process. They cannot be compared with
    the database's time."""
    return time.monotonic()


class Backoff:
    """Delays that grow while something fails: 0.1 s, half as much more each time, up to 5 s, each spread by half.

    What waits so goes on within twice the time for which it failed. Doubled delays may take half as long again.
    """

    def __init__(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Return the delay after one more failure, in seconds."""
        self.failures += 1
        return min(0.1 * 1.5 ** min(self.failures - 1, 10), 5.0) * random.uniform(0.5, 1.5)  # noqa: S311

    def reset(self) -> None:
        """Start again at the shortest delay."""
        self.failures = 0
