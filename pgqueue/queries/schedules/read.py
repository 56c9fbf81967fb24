"""Reading schedules and their ticks."""

import builtins
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from pgqueue.queries.base import Query, Statements
from pgqueue.schedules.ticks import TickRecord

# List schedules by name, a page at a time, with the last of their ticks and counts of the last day's. By the key
# (schedule, tick).
LIST: LiteralString = """
select name, task, plan, timezone, state, next_tick, lag_seconds, last_tick, last_outcome, last_reason, last_job_id,
       last_lag_seconds, fired_in_a_day, missed_in_a_day, skipped_in_a_day, queued, misfire, grace_seconds, overlap,
       max_running, paused_at, paused_by, paused_until, disabled_at, app, edited_at, edited_by, error
from {s}.schedule_status
where (%(name)s::text is null or name = %(name)s) and (%(after)s::text is null or name > %(after)s)
order by name limit %(limit)s"""

# List the newest ticks of a schedule, by the key (schedule, tick) backwards. The naive form, `schedule = …`: while the
# planner has no statistics it expects few ticks of a schedule, reads all of them and sorts them. A range it reads in
# the order of the key.
LIST_TICKS: LiteralString = """
select schedule, tick, outcome, reason, job_id, by from {s}.schedule_fire
where schedule >= %(name)s and (schedule, tick) < (%(name)s, coalesce(%(before)s::timestamptz, 'infinity'))
order by schedule desc, tick desc limit %(limit)s"""


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule as the view schedule_status has it.

    `state` is active, paused, disabled (the code no longer declares it), over (no tick will come), or broken (`error`
    says why). `lag_seconds`: how late its next tick is now; `last_lag_seconds`: how late the last one was.
    """

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
        """List schedules in the order of their names, those `after` a name; or only the one called `name`."""
        params = {"name": name, "after": after, "limit": limit}
        return Query(self._sql(LIST), lambda rows: [ScheduleStatus(*row) for row in rows], params)

    def list_ticks(
        self, name: str, limit: int = 20, before: datetime | None = None
    ) -> Query[builtins.list[TickRecord]]:
        """List the newest ticks of a schedule."""
        params = {"name": name, "limit": limit, "before": before}
        return Query(self._sql(LIST_TICKS), lambda rows: [TickRecord(*row) for row in rows], params)
