"""Definitions of schedules: declared in code, made and changed at run time."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.errors import PgqueueError
from pgqueue.queries.base import Query, Row, Statements, nothing
from pgqueue.queries.schedules.stored import row_json, rows_json
from pgqueue.schedules.schedule import Schedule
from pgqueue.tasks.sealing import open_args

_COLUMNS: LiteralString = (
    "task, args, cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at, jitter_seconds, queue, "
    "priority, max_attempts, tags, options, misfire, grace_seconds, overlap, max_running"
)

_GIVEN: LiteralString = (
    "g.task, g.args, g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone, g.starts_at, g.ends_at, "
    "g.jitter_seconds, g.queue, g.priority, g.max_attempts, g.tags, g.options, g.misfire, g.grace_seconds, g.overlap, "
    "g.max_running"
)

_ROWS: LiteralString = "jsonb_populate_recordset(null::{s}.schedule, %(rows)s::jsonb) as g"

# Make the schedules that the code declares equal to what it says. Several schedulers may do it at once; where nothing
# is new nothing is written. What an operator has edited stays as it is, and only what the code says is noted beside it.
# The next tick is kept when the plan is the same, so that a restart neither skips nor repeats a tick; a changed plan
# starts from now. A row inserted by another transaction meanwhile is left alone until the next declaration.
DECLARE: LiteralString = (
    """
with g as materialized (select * from """
    + _ROWS
    + """), made as (
    insert into {s}.schedule (name, app, declared, next_tick, """
    + _COLUMNS
    + ") select g.name, g.app, g.declared, g.next_tick, "
    + _GIVEN
    + """ from g on conflict (name) do nothing
), changed as (
    update {s}.schedule s set ("""
    + _COLUMNS
    + ") = ("
    + _GIVEN
    + """), app = g.app, declared = g.declared, disabled_at = null, updated_at = now(), error = null,
        next_tick = case when s.disabled_at is null and s.next_tick is not null
                          and (s.cron, s.every_seconds, s.at, s.rrule, s.anchor, s.timezone, s.starts_at, s.ends_at)
                              is not distinct from
                              (g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone, g.starts_at, g.ends_at)
                         then s.next_tick else g.next_tick end
    from g where s.name = g.name and s.edited_at is null
    and (s.declared is distinct from g.declared or s.app is distinct from g.app or s.disabled_at is not null)
)
update {s}.schedule s set app = g.app, declared = g.declared, disabled_at = null, updated_at = now(),
    replan_from = case when s.disabled_at is null then s.replan_from else clock_timestamp() end
from g where s.name = g.name and s.edited_at is not null
and (s.declared is distinct from g.declared or s.app is distinct from g.app or s.disabled_at is not null)"""
)

# Which of these declarations are new here, or not what the row says the code says. By primary key.
FIND_CHANGED: LiteralString = (
    "select g.name, s.declared, s.name is null or s.app is distinct from g.app or s.disabled_at is not null from "
    + _ROWS
    + """ left join {s}.schedule s using (name)
where s.name is null or s.declared is distinct from g.declared or s.app is distinct from g.app
or s.disabled_at is not null"""
)

# Insert a schedule, unless there is one of that name. Returns whether it was. Waits for a transaction that is about to
# insert the same name.
CREATE: LiteralString = (
    "insert into {s}.schedule (name, next_tick, edited_at, edited_by, "
    + _COLUMNS
    + ") select g.name, g.next_tick, clock_timestamp(), g.edited_by, "
    + _GIVEN
    + " from "
    + _ROWS
    + " on conflict (name) do nothing returning true"
)

# Change the definition of a schedule that this transaction has locked. What the change left untold of older ticks is
# recorded beside it.
REDEFINE: LiteralString = (
    "update {s}.schedule s set ("
    + _COLUMNS
    + ") = ("
    + _GIVEN
    + """), next_tick = g.next_tick, edited_at = g.edited_at, edited_by = g.edited_by, updated_at = now(),
 edit_asked = null, edit_error = null, error = null, replan_from = null,
    gap_from = case when %(keep_gap)s then s.gap_from end, gap_to = case when %(keep_gap)s then s.gap_to end,
    gap_by = case when %(keep_gap)s then s.gap_by end,
    paused_at = case when s.paused_at is not null and not %(keep_gap)s then clock_timestamp() else s.paused_at end
from """
    + _ROWS
    + " where s.name = g.name"
)

DECLARATION: LiteralString = (
    "select to_jsonb(g), g.args::text from {s}.schedule s,"
    " jsonb_populate_record(null::{s}.schedule, s.declared) as g where s.name = %(name)s and s.declared is not null"
)

# The verbs of operators, as they are for SQL.
PAUSE: LiteralString = (
    "select {s}.schedule_pause(name, %(until)s, %(by)s, %(catch_up)s) from {s}.schedule where name = %(name)s"
)

RESUME: LiteralString = "select {s}.schedule_resume(name, %(catch_up)s) from {s}.schedule where name = %(name)s"

DELETE: LiteralString = "delete from {s}.schedule where name = %(name)s returning app"

WAKE_SCHEDULERS: LiteralString = "select {s}.schedule_wake()"


class DefinitionQueries(Statements):
    """Definitions of schedules."""

    def declare(self, schedules: Sequence[tuple[Schedule, datetime | None]], app: str = "") -> Query[None]:
        """Insert or update schedules that the code of `app` declares, each with its first tick."""
        rows = rows_json([_declaration(self._sealed(schedule), tick, app) for schedule, tick in schedules])
        return Query(self._sql(DECLARE), nothing, {"rows": rows})

    def find_changed(self, schedules: Sequence[Schedule], app: str = "", *, reseal: bool = True) -> Query[set[str]]:
        """Which of the schedules of the code are new, or not as they were declared before.

        Arguments differ each time they are sealed: all schedules are news, so that they come to be sealed with the
        present key; without `reseal`, those whose arguments are others when they are opened.
        """
        rows = rows_json([_declaration(schedule, None, app) for schedule in schedules])
        given = {schedule.name: schedule for schedule in schedules}

        def read(found: Sequence[Row]) -> set[str]:
            changed = {row[0] for row in found if row[2] or reseal or self.codec is None}
            return changed | {name for name, declared, _ in found if not self._says(declared, given[name])}

        return Query(self._sql(FIND_CHANGED), read, {"rows": rows})

    def _sealed(self, schedule: Schedule) -> Schedule:
        """A schedule as it is stored."""
        return replace(schedule, job=replace(schedule.job, args=self._args([schedule.job])[0]))

    def _says(self, declared: dict[str, Any] | None, schedule: Schedule) -> bool:
        """Whether a stored declaration says, when it is opened, what a schedule does."""
        try:
            stored = open_args(self.codec, schedule.job.task, json.dumps((declared or {})["args"]))
        except (LookupError, PgqueueError):
            return False
        said: object = (declared or {}) | {"args": json.loads(stored)}
        return bool(said == json.loads(row_json(schedule)))

    def create(self, schedule: Schedule, next_tick: datetime | None, by: str) -> Query[bool]:
        """Insert a schedule; False if there is one of that name."""
        row = row_json(self._sealed(schedule), next_tick=next_tick and next_tick.isoformat(), edited_by=by)
        return Query(self._sql(CREATE), lambda rows: bool(rows), {"rows": rows_json([row])})

    def redefine(
        self,
        schedule: Schedule,
        next_tick: datetime | None,
        edited_at: datetime | None,
        edited_by: str | None,
        *,
        keep_gap: bool = False,
    ) -> Query[None]:
        """Change the definition of a schedule that is locked. `keep_gap`: its plan is the same, so that the ticks of a
        pause that is over are still to be told."""
        more = {"next_tick": next_tick and next_tick.isoformat(), "edited_by": edited_by}
        row = row_json(self._sealed(schedule), edited_at=edited_at and edited_at.isoformat(), **more)
        return Query(self._sql(REDEFINE), nothing, {"rows": rows_json([row]), "keep_gap": keep_gap})

    def declaration(self, name: str) -> Query[Schedule | None]:
        """What the code says of a schedule; None if it says nothing."""
        return Query(self._sql(DECLARATION), lambda rows: Schedule.of(name, *rows[0]) if rows else None, {"name": name})

    def pause(self, name: str, until: datetime | None, by: str, catch_up: str) -> Query[bool]:
        """Pause a schedule; False if there is none of that name."""
        params: dict[str, Any] = {"name": name, "until": until, "by": by, "catch_up": catch_up}
        return Query(self._sql(PAUSE), lambda rows: bool(rows), params)

    def resume(self, name: str, catch_up: str | None) -> Query[bool]:
        """Resume a schedule; False if there is none of that name."""
        return Query(self._sql(RESUME), lambda rows: bool(rows), {"name": name, "catch_up": catch_up})

    def delete(self, name: str) -> Query[bool]:
        """Delete a schedule; False if there is none of that name. Its ticks stay."""
        return Query(self._sql(DELETE), lambda rows: bool(rows), {"name": name})

    def wake_schedulers(self) -> Query[None]:
        """Let schedulers look, when the transaction commits."""
        return Query(self._sql(WAKE_SCHEDULERS), nothing)


def _declaration(schedule: Schedule, next_tick: datetime | None, app: str) -> str:
    row = row_json(schedule, next_tick=next_tick and next_tick.isoformat(), app=app)
    return f'{row[:-1]}, "declared": {row_json(schedule)}}}'
