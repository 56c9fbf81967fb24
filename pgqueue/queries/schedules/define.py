"""Defining schedules: declared in code, or created and changed at run time."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.queries.base import Query, Row, Statements, fill, nothing
from pgqueue.queries.schedules.stored import row_json, row_of, rows_json
from pgqueue.schedules.schedule import Schedule
from pgqueue.tasks.sealing import open_args

# The columns that define a schedule, and the same of a given row `g`.
_COLUMNS: LiteralString = """task, args, cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at,
    jitter_seconds, queue, priority, max_attempts, tags, options, misfire, grace_seconds, overlap, max_running"""
_GIVEN_COLUMNS: LiteralString = """g.task, g.args, g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone,
    g.starts_at, g.ends_at, g.jitter_seconds, g.queue, g.priority, g.max_attempts, g.tags, g.options, g.misfire,
    g.grace_seconds, g.overlap, g.max_running"""

# Make the schedules that the code declares equal to their declarations. Several schedulers may do this at once; where
# nothing is new, nothing is written. A schedule that an operator has edited stays as it is, and the statement only
# notes beside it what the code says. The next tick stays where the plan is the same, so that a restart neither skips
# nor repeats a tick; a changed plan starts from now. A row that another transaction inserts at the same time is left
# alone until the next declaration.
DECLARE: LiteralString = fill(
    """
with g as materialized (
    select * from jsonb_populate_recordset(null::{s}.schedule, %(rows)s::jsonb)
), made as (
    insert into {s}.schedule (name, app, declared, next_tick, {columns})
    select g.name, g.app, g.declared, g.next_tick, {given_columns}
    from g on conflict (name) do nothing
), changed as (
    update {s}.schedule s set ({columns}) = ({given_columns}),
        app = g.app, declared = g.declared, disabled_at = null, updated_at = now(), error = null,
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
and (s.declared is distinct from g.declared or s.app is distinct from g.app or s.disabled_at is not null)""",
    columns=_COLUMNS,
    given_columns=_GIVEN_COLUMNS,
)

# Find which of these declarations are new here, or differ from those that the rows hold. By primary key.
FIND_CHANGED: LiteralString = """
select g.name, s.declared::text, s.name is null or s.app is distinct from g.app or s.disabled_at is not null
from jsonb_populate_recordset(null::{s}.schedule, %(rows)s::jsonb) as g left join {s}.schedule s using (name)
where s.name is null or s.declared is distinct from g.declared or s.app is distinct from g.app
or s.disabled_at is not null"""

# Insert a schedule, unless one has its name already; returns whether it was inserted. Waits for a transaction that is
# about to insert the same name.
CREATE: LiteralString = fill(
    """
insert into {s}.schedule (name, next_tick, edited_at, edited_by, {columns})
select g.name, g.next_tick, clock_timestamp(), g.edited_by, {given_columns}
from jsonb_populate_recordset(null::{s}.schedule, %(rows)s::jsonb) as g
on conflict (name) do nothing returning true""",
    columns=_COLUMNS,
    given_columns=_GIVEN_COLUMNS,
)

# Change the definition of a schedule that this transaction has locked. Ticks of the old plan that have passed are
# recorded by RECORD_TICKS. By primary key.
REDEFINE: LiteralString = fill(
    """
update {s}.schedule s set ({columns}) = ({given_columns}),
    next_tick = g.next_tick, edited_at = g.edited_at, edited_by = g.edited_by, updated_at = now(),
    edit_asked = null, edit_error = null, error = null, replan_from = null,
    gap_from = case when %(keep_gap)s then s.gap_from end, gap_to = case when %(keep_gap)s then s.gap_to end,
    gap_by = case when %(keep_gap)s then s.gap_by end,
    paused_at = case when s.paused_at is not null and not %(keep_gap)s then clock_timestamp() else s.paused_at end
from jsonb_populate_recordset(null::{s}.schedule, %(rows)s::jsonb) as g where s.name = g.name""",
    columns=_COLUMNS,
    given_columns=_GIVEN_COLUMNS,
)

# Read what the code declares of a schedule, whatever an operator has edited since. By primary key.
DECLARATION: LiteralString = """
select to_jsonb(g), g.args::text, array[g.every_seconds, g.jitter_seconds, g.grace_seconds]
from {s}.schedule s, jsonb_populate_record(null::{s}.schedule, s.declared) as g
where s.name = %(name)s and s.declared is not null"""

# The verbs of operators. The first two and the last are the functions that the schema has for SQL. By primary key.
PAUSE: LiteralString = """
select {s}.schedule_pause(name, %(until)s, %(by)s, %(catch_up)s) from {s}.schedule where name = %(name)s"""
RESUME: LiteralString = "select {s}.schedule_resume(name, %(catch_up)s) from {s}.schedule where name = %(name)s"
DELETE: LiteralString = "delete from {s}.schedule where name = %(name)s returning app"
WAKE_SCHEDULERS: LiteralString = "select {s}.schedule_wake()"


class DefinitionQueries(Statements):
    """Defining schedules."""

    def declare(self, schedules: Sequence[tuple[Schedule, datetime | None]], app: str = "") -> Query[None]:
        """Insert or update schedules that the code of `app` declares, each with its first tick."""
        rows = rows_json([_declaration(self._sealed(schedule), tick, app) for schedule, tick in schedules])
        return Query(self._sql(DECLARE), nothing, {"rows": rows})

    def find_changed(self, schedules: Sequence[Schedule], app: str = "", *, reseal: bool = True) -> Query[set[str]]:
        """Find which of the schedules of the code are new, or differ from their last declaration.

        With a codec the arguments differ each time they are sealed. With `reseal` all schedules then count as changed,
        so that they are sealed with the current key; without it, those whose arguments differ once they are opened.
        Here they are compared, not by the statement: no unsealed arguments go to the server.
        """
        sent = schedules if self.codec is None else [_without_args(schedule) for schedule in schedules]
        rows = rows_json([_declaration(schedule, None, app) for schedule in sent])
        given = {schedule.name: schedule for schedule in schedules}

        def read(found: Sequence[Row]) -> set[str]:
            changed = {row[0] for row in found if row[2] or reseal or self.codec is None}
            return changed | {name for name, declared, _ in found if not self._declares(declared, given[name])}

        return Query(self._sql(FIND_CHANGED), read, {"rows": rows})

    def _sealed(self, schedule: Schedule) -> Schedule:
        """Return a schedule as it is stored."""
        return replace(schedule, job=replace(schedule.job, args=self._args([schedule.job])[0]))

    def _declares(self, declared: str | None, schedule: Schedule) -> bool:
        """Tell whether a stored declaration, once opened, is that of a schedule."""
        try:
            found = json.loads(declared or "{}")
            stored = open_args(self.codec, schedule.job.task, json.dumps(found["args"]))
            return bool(found | {"args": json.loads(stored)} == json.loads(row_json(schedule)))
        except Exception:  # noqa: BLE001 - one that cannot be read is declared anew
            return False

    def create(self, schedule: Schedule, next_tick: datetime | None, by: str) -> Query[bool]:
        """Insert a schedule; False if one has that name already."""
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
        """Change the definition of a schedule that is locked.

        `keep_gap`: its plan is the same, so a scheduler still has to record the ticks of a pause that has ended.
        """
        more = {"next_tick": next_tick and next_tick.isoformat(), "edited_by": edited_by}
        row = row_json(self._sealed(schedule), edited_at=edited_at and edited_at.isoformat(), **more)
        return Query(self._sql(REDEFINE), nothing, {"rows": rows_json([row]), "keep_gap": keep_gap})

    def declaration(self, name: str) -> Query[Schedule | None]:
        """Read what the code declares of a schedule; None if it declares none of that name."""

        def read(rows: Sequence[Row]) -> Schedule | None:
            return Schedule.of(name, row_of(rows[0][0], rows[0][2]), rows[0][1]) if rows else None

        return Query(self._sql(DECLARATION), read, {"name": name})

    def pause(self, name: str, until: datetime | None, by: str, catch_up: str) -> Query[bool]:
        """Pause a schedule; False if none has that name."""
        params: dict[str, Any] = {"name": name, "until": until, "by": by, "catch_up": catch_up}
        return Query(self._sql(PAUSE), lambda rows: bool(rows), params)

    def resume(self, name: str, catch_up: str | None) -> Query[bool]:
        """Resume a schedule; False if none has that name."""
        return Query(self._sql(RESUME), lambda rows: bool(rows), {"name": name, "catch_up": catch_up})

    def delete(self, name: str) -> Query[bool]:
        """Delete a schedule; False if none has that name. The rows of its ticks stay."""
        return Query(self._sql(DELETE), lambda rows: bool(rows), {"name": name})

    def wake_schedulers(self) -> Query[None]:
        """Let schedulers look at their schedules when the transaction commits."""
        return Query(self._sql(WAKE_SCHEDULERS), nothing)


def _without_args(schedule: Schedule) -> Schedule:
    """Return a schedule with null for its arguments, from which every stored declaration differs."""
    return replace(schedule, job=replace(schedule.job, args="null"))


def _declaration(schedule: Schedule, next_tick: datetime | None, app: str) -> str:
    row = row_json(schedule, next_tick=next_tick and next_tick.isoformat(), app=app)
    return f'{row[:-1]}, "declared": {row_json(schedule)}}}'
