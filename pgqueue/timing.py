"""Durations: what a caller may give as one, and the delays between tries."""

import random
import time
from datetime import timedelta
from typing import TypeAlias

from pgqueue.errors import InvalidOption


def seconds(duration: float | timedelta) -> float:
    """Return a duration given in seconds or as a timedelta in seconds. Raises InvalidOption for anything else."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    try:
        if isinstance(duration, (int, float)) and not isinstance(duration, bool):
            return float(duration)
    except OverflowError:
        pass
    raise InvalidOption(f"{duration!r:.100} cannot be used: give a number of seconds or a timedelta")


# Ten years: run_at stays a timestamp that Postgres can hold, whatever a policy says.
MAX_DELAY = 10 * 365 * 86400.0


def check_delay(delay: float | timedelta | None) -> None:
    """Refuse a delay that is no number of seconds, negative, or longer than ten years."""
    try:
        usable = delay is None or 0 <= seconds(delay) <= MAX_DELAY
    except InvalidOption:
        usable = False
    if not usable:
        raise InvalidOption(f"delay={delay!r:.100} cannot be used: give 0 to {MAX_DELAY:.0f} seconds, or a timedelta")


def check_limit(option: str, given: float | timedelta | None) -> float | None:
    """Return a limit in seconds; refuse one that is not from a millisecond to ten years."""
    if given is None:
        return None
    limit = seconds(given)
    if not 0.001 <= limit <= MAX_DELAY:
        raise InvalidOption(f"{option}={given!r} cannot be used: give 0.001 to {MAX_DELAY:.0f} seconds, or None")
    return limit


def monotonic() -> float:
    """Seconds on a clock that never steps back, for waits inside one process. Never compared with the database's."""
    return time.monotonic()


class Backoff:
    """Delays that grow while something fails: 0.1 s doubling to 5 s, each spread by half."""

    def __init__(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Return the delay after one more failure, in seconds."""
        self.failures += 1
        return min(0.1 * 2.0 ** min(self.failures - 1, 10), 5.0) * random.uniform(0.5, 1.5)  # noqa: S311

    def reset(self) -> None:
        """Forget the failures."""
        self.failures = 0


def check_seconds(name: str, value: object, least: float) -> None:
    """Refuse a duration that is no number of seconds from `least` to a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 86400:
        raise InvalidOption(f"{name}={value!r} cannot be used: give {least:g} to 86400 seconds")


def check_span_of(option: str, given: float | timedelta | None, most: float = 366 * 86400) -> float | None:
    """Return a duration in seconds, from 0 on; refuse anything else."""
    try:
        value = None if given is None else seconds(given)
    except InvalidOption:
        value = -1
    if value is not None and not 0 <= value <= most:
        raise InvalidOption(f"{option}={given!r:.100} cannot be used: give 0 to {most:g} seconds, or a timedelta")
    return value


Seconds: TypeAlias = float | timedelta


def check_window(option: str, window: object) -> float:
    """Return a window in seconds; refuse one that is not from a millisecond to ten years long."""
    try:
        length = seconds(window)  # type: ignore[arg-type]  # whatever it is, seconds() says so
    except InvalidOption:
        length = 0.0
    if not 0.001 <= length <= MAX_DELAY:
        raise InvalidOption(f"{option}={window!r:.100} cannot be used: give 0.001 to {MAX_DELAY:.0f} seconds")
    return length
