"""What people type for a schedule, read into values: plans, moments, durations, and options as name=value."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pgqueue.cli.options import read_arguments
from pgqueue.client.schedule_options import ScheduleOptions
from pgqueue.errors import InvalidOption
from pgqueue.schedules.plan import Plan, RRule, as_plan, check_moment

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WITH_OPTIONS_OF_THEIR_OWN = {"args", "at", "timezone"}


def read_plan(text: str, timezone: str | None, start: datetime | None) -> Plan:
    """Read a plan: a recurrence rule (FREQ=…), an interval with or without a unit, or cron."""
    if "FREQ=" in text.upper():
        return RRule(text, check_moment("start", start), timezone or "UTC")
    return as_plan(_duration(text) if _is_duration(text) else text, timezone or "UTC", start)


def read_moment(option: str, text: str | None) -> datetime | None:
    """Read a moment in ISO 8601, with its offset. Raises InvalidOption."""
    if text is None:
        return None
    try:
        return check_moment(option, datetime.fromisoformat(text))
    except ValueError:
        raise InvalidOption(f"{option} {text!r} cannot be used: give a moment such as 2027-01-31T06:00+01:00") from None


def read_seconds(option: str, text: str | None) -> float | None:
    """Read a duration: 90, 90s, 5m, 2h, 1d. Raises InvalidOption."""
    if text is None:
        return None
    if not _is_duration(text):
        raise InvalidOption(f"{option} {text!r:.100} cannot be used: give a duration such as 90s, 5m or 2h")
    return _duration(text).total_seconds()


def read_end(option: str, text: str | None) -> datetime | timedelta | None:
    """Read a moment, or a duration, which begins when the database says so."""
    return _duration(text) if text is not None and _is_duration(text) else read_moment(option, text)


def read_options(target: str, options: Sequence[str] | None, timezone: str | None, args: str | None) -> ScheduleOptions:
    """Read name=value options, and those that have an option of their own. Durations may have a unit.

    `target` is what an error about the arguments names.
    """
    read: dict[str, Any] = {} if timezone is None else {"timezone": timezone}
    if args is not None:
        read["args"] = read_arguments(target, args)
    known = ScheduleOptions.__annotations__.keys() - _WITH_OPTIONS_OF_THEIR_OWN
    for text in options or []:
        name, _, value = text.partition("=")
        if name not in known or not value:
            names = ", ".join(sorted(known))
            raise InvalidOption(f"--option {text!r} cannot be used: give name=value, name one of {names}")
        read[name] = _value(name, value)
    return read  # type: ignore[return-value]  # names are checked here, values where they are used


def _value(name: str, value: str) -> Any:
    if name in ("start", "end"):
        return read_moment(name, value)
    if name == "tags":
        return value.split(",")
    if value == "none":
        return None
    if name in ("priority", "max_attempts", "max_running"):
        return int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) else value
    return _duration(value) if name in ("jitter", "delay", "grace", "expires") and _is_duration(value) else value


def _is_duration(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?[smhd]?", text) is not None


def _duration(text: str) -> timedelta:
    unit = text[-1] if text[-1] in _UNITS else "s"
    return timedelta(seconds=float(text.removesuffix(unit)) * _UNITS[unit])
