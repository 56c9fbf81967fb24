"""Schedules as they are stored: from rows to schedules, and back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString, TypeAlias

from pgqueue.queries.base import Row
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import ScheduleState


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """A schedule as it was read; `row` holds all of its columns but the arguments and the declaration."""

    state: ScheduleState
    row: Mapping[str, Any]
    args: str

    @property
    def schedule(self) -> Schedule:
        """The schedule itself."""
        return self.state.schedule

    @property
    def name(self) -> str:
        """Its name."""
        return self.state.schedule.name


@dataclass(frozen=True, slots=True)
class UnreadableSchedule:
    """A schedule whose row cannot be read, and why. An edit of `row` may make one that can."""

    name: str
    reason: str
    row: Mapping[str, Any] = field(default_factory=dict)
    args: str = "{}"


# The columns that are floats, apart from the row as JSON. In JSON Postgres writes them with as many digits as the
# setting extra_float_digits says, which a caller's role may have set to -15.
FLOATS: LiteralString = "array[every_seconds, jitter_seconds, grace_seconds]"

FoundSchedule: TypeAlias = StoredSchedule | UnreadableSchedule


@dataclass(frozen=True, slots=True)
class BrokenJson:
    """JSON that Postgres takes and Python cannot read, and why."""

    reason: str


def read_schedule(row: Row) -> FoundSchedule:
    """Read a row of the columns that `fire` selects. Never raises: a row must not hold up the others.

    The columns that may hold any JSON come as text and are decoded here: Postgres takes some that Python cannot read,
    nested a thousand deep or with a number of 5,000 digits, and the driver would fail for the whole answer.
    """
    name, found, options, edit, args, floats, now = row
    found = row_of(found, floats) | {"options": _read_json(options), "edit_asked": _read_json(edit)}
    try:
        return StoredSchedule(_state(Schedule.of(name, found, args), found, now), found, args)
    except Exception as error:  # noqa: BLE001 - whatever it is, the row is broken, and shown as such
        return UnreadableSchedule(name, str(error) or type(error).__name__, found, args)


def _read_json(text: str | None) -> object:
    try:
        return None if text is None else json.loads(text)
    except RecursionError:
        return BrokenJson("it is nested too deep")
    except ValueError as error:
        return BrokenJson(str(error))


def row_of(row: Mapping[str, Any] | str, floats: Sequence[float | None]) -> dict[str, Any]:
    """Return the row of a schedule from its JSON, which asyncpg gives as text, and its FLOATS."""
    every, jitter, grace = floats
    found = json.loads(row) if isinstance(row, str) else row
    return {**found, "every_seconds": every, "jitter_seconds": jitter, "grace_seconds": grace}


def _state(schedule: Schedule, row: Mapping[str, Any], now: datetime) -> ScheduleState:
    times = ("next_tick", "paused_at", "paused_until", "gap_from", "gap_to", "look_at", "replan_from")
    same = ("paused_by", "resume_with", "gap_by", "live_jobs", "edit_asked", "error")
    moments = {name: datetime.fromisoformat(row[name]) if row[name] else None for name in times}
    state: dict[str, Any] = moments | {name: row[name] for name in same}
    return ScheduleState(schedule, now, disabled=row["disabled_at"] is not None, **state)


def row_json(schedule: Schedule, **more: Any) -> str:
    """Return the definition of a schedule as the JSON of its row, with other columns. Arguments stay as they are."""
    columns = {"name": schedule.name} | schedule.columns() | more
    return json.dumps(columns)[:-1] + f', "args": {schedule.job.args}}}'


def rows_json(rows: Sequence[str]) -> str:
    """Return rows as one JSON array."""
    return f"[{', '.join(rows)}]"
