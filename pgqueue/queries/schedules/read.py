"""Reading schedules and their ticks."""

import builtins
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from pgqueue.queries.base import Query, Statements
from pgqueue.schedules.ticks import TickRecord

_SCHEDULE_FIELDS: LiteralString = (
    "name, task, plan, timezone, state, next_tick, lag_seconds, last_tick, last_outcome, last_reason, last_job_id, "
    "last_lag_seconds, fired_in_a_day, missed_in_a_day, skipped_in_a_day, queued, misfire, grace_seconds, overlap, "
    "max_running, paused_at, paused_by, paused_until, disabled_at, app, edited_at, edited_by, error"
)

# Schedules by name, a page at a time, with the last of their ticks and what a day brought, by the key (schedule, tick).
LIST_SCHEDULES: LiteralString = (
    "select "
    + _SCHEDULE_FIELDS
    + """ from {s}.schedule_status
where (%(name)s::text is null or name = %(name)s) and (%(after)s::text is null or name > %(after)s)
order by name limit %(limit)s"""
)

# The newest ticks of a schedule, by the key (schedule, tick) backwards. With `schedule = …` the planner, while it has
# no statistics, takes all ticks of a schedule for a few, reads and sorts them; a range it reads in the key's order.
LIST_TICKS: LiteralString = """
select schedule, tick, outcome, reason, job_id, by from {s}.schedule_fire
where schedule >= %(name)s and (schedule, tick) < (%(name)s, coalesce(%(before)s::timestamptz, 'infinity'))
order by schedule desc, tick desc limit %(limit)s"""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule as the view schedule_status has it. `state` is active, paused, disabled (the code dropped it), over,
    or broken (`error` says why). `lag_seconds`: by how much its next tick is late now; `last_lag_seconds`: by how
    much the last one was."""

    name: str
    task: str
    plan: str
    timezone: str
    state: str
    next_tick: datetime | None
    lag_seconds: float | None
    last_tick: datetime | None
    last_outcome: str | None
    last_reason: str | None
    last_job_id: int | None
    last_lag_seconds: float | None
    fired_in_a_day: int
    missed_in_a_day: int
    skipped_in_a_day: int
    queued: int
    misfire: str
    grace_seconds: float | None
    overlap: str
    max_running: int | None
    paused_at: datetime | None
    paused_by: str | None
    paused_until: datetime | None
    disabled_at: datetime | None
    app: str | None
    edited_at: datetime | None
    edited_by: str | None
    error: str | None


class ScheduleReadQueries(Statements):
    """Reading schedules and their ticks."""

    def list(
        self, name: str | None = None, after: str | None = None, limit: int = 1000
    ) -> Query[builtins.list[ScheduleStatus]]:
        """Schedules in the order of their names, `after` one of them; or the one called `name`."""
        params = {"name": name, "after": after, "limit": limit}
        return Query(self._sql(LIST_SCHEDULES), lambda rows: [ScheduleStatus(*row) for row in rows], params)

    def list_ticks(
        self, name: str, limit: int = 20, before: datetime | None = None
    ) -> Query[builtins.list[TickRecord]]:
        """The newest ticks of a schedule."""
        params = {"name": name, "limit": limit, "before": before}
        return Query(self._sql(LIST_TICKS), lambda rows: [TickRecord(*row) for row in rows], params)
