"""Schedules: plan rows, and ticks that become jobs."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from pgqueue.errors import InvalidPlan
from pgqueue.job import NewJob
from pgqueue.plan import Cron, Every, Plan
from pgqueue.queries.base import Query, Row, Statements, first_value, nothing, text_array

CLOCK: LiteralString = "select clock_timestamp()"

# Make the schedules that the code declares equal to what it says. Several schedulers may do it at once.
# The next tick is kept when the plan is the same, so that a restart neither skips nor repeats a tick; a changed plan
# starts from now.
DECLARE: LiteralString = """
insert into {s}.schedule as old
    (name, task, args, cron, every_seconds, timezone, queue, priority, max_attempts, tags, next_tick)
select g.name, g.task, g.args, g.cron, g.every, g.timezone, g.queue, g.priority, g.max_attempts, g.tags::text[], g.tick
from unnest(%(names)s::text[], %(tasks)s::text[], %(args)s::jsonb[], %(crons)s::text[], %(everies)s::float8[],
                     %(timezones)s::text[], %(queues)s::text[], %(priorities)s::smallint[], %(max_attempts)s::int[],
                     %(tags)s::text[], %(next_ticks)s::timestamptz[])
     as g(name, task, args, cron, every, timezone, queue, priority, max_attempts, tags, tick)
on conflict (name) do update set
    task = excluded.task, args = excluded.args, cron = excluded.cron, every_seconds = excluded.every_seconds,
    timezone = excluded.timezone, queue = excluded.queue, priority = excluded.priority,
    max_attempts = excluded.max_attempts, tags = excluded.tags, updated_at = now(),
    next_tick = case when (old.cron, old.every_seconds, old.timezone)
                          is not distinct from (excluded.cron, excluded.every_seconds, excluded.timezone)
                     then old.next_tick else excluded.next_tick end
where (old.task, old.args, old.cron, old.every_seconds, old.timezone, old.queue, old.priority, old.max_attempts,
       old.tags)
      is distinct from (excluded.task, excluded.args, excluded.cron, excluded.every_seconds, excluded.timezone,
                        excluded.queue, excluded.priority, excluded.max_attempts, excluded.tags)"""

# Lock schedules that are due, and read the clock that decides. SKIP LOCKED: each goes to one scheduler, none waits.
# The locks last until the transaction that fires them commits. Reads schedule_next_tick.
LOCK_DUE: LiteralString = """
select name, task, args::text, cron, every_seconds, timezone, queue, priority, max_attempts, tags, next_tick,
       clock_timestamp()
from {s}.schedule
where paused_at is null and next_tick <= clock_timestamp() and not name = any(%(but)s::text[])
order by next_tick limit %(at_most)s for update skip locked"""

# Which of these ticks have a row already. Asked while the schedules are locked: a tick that an operator's edit brings
# up again has fired, and must not block the rest by violating the key.
KNOWN_TICKS: LiteralString = """
select f.schedule, f.tick from {s}.schedule_fire f
join unnest(%(schedules)s::text[], %(ticks)s::timestamptz[]) as t(schedule, tick) using (schedule, tick)"""

# Record ticks and move the schedules on, in the transaction that inserted the jobs. The key (schedule, tick) is the
# proof that a tick fires once, whatever the schedulers believe: a second firing of a tick raises, and takes its job
# with it. Only a missed tick may be there already.
RECORD_TICKS: LiteralString = """
with moved as (
    update {s}.schedule s set next_tick = m.next_tick
    from unnest(%(names)s::text[], %(next_ticks)s::timestamptz[]) as m(name, next_tick) where s.name = m.name
)
insert into {s}.schedule_fire (schedule, tick, outcome, reason, job_id)
select t.* from unnest(%(schedules)s::text[], %(ticks)s::timestamptz[], %(outcomes)s::text[], %(reasons)s::text[],
                       %(job_ids)s::bigint[]) as t(schedule, tick, outcome, reason, job_id)
where t.outcome = 'fired'
or not exists (select from {s}.schedule_fire f where f.schedule = t.schedule and f.tick = t.tick)"""

# Seconds until the next tick of any schedule; null without one. The first entry of schedule_next_tick.
NEXT_TICK: LiteralString = """
select extract(epoch from min(next_tick) - clock_timestamp())::float8 from {s}.schedule
where paused_at is null and not name = any(%(but)s::text[])"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: its name, its plan, and the job that each tick becomes."""

    name: str
    plan: Plan
    job: NewJob


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule whose tick has come, and the database's time at which that was seen."""

    schedule: Schedule
    tick: datetime
    now: datetime


@dataclass(frozen=True, slots=True)
class Unusable:
    """A schedule whose plan cannot be read."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """What became of one tick. `job_id` if it fired."""

    schedule: str
    tick: datetime
    outcome: str
    reason: str | None = None
    job_id: int | None = None


def _due(row: Row) -> Due | Unusable:
    name, task, args, cron, every, timezone, queue, priority, max_attempts, tags, tick, now = row
    try:
        plan: Plan = Every(every, timezone) if cron is None else Cron(cron, timezone)
    except InvalidPlan as error:
        return Unusable(name, str(error))
    return Due(Schedule(name, plan, NewJob(task, args, queue, priority, max_attempts, tags=tuple(tags))), tick, now)


class ScheduleQueries(Statements):
    """Schedules and ticks."""

    def clock(self) -> Query[datetime]:
        """The database's time."""
        return Query(CLOCK.encode(), first_value)

    def declare(self, schedules: Sequence[tuple[Schedule, datetime]]) -> Query[None]:
        """Insert or update schedules, each with its first tick."""
        plans = [schedule.plan for schedule, _ in schedules]
        params: dict[str, Any] = {
            "names": [s.name for s, _ in schedules],
            "tasks": [s.job.task for s, _ in schedules],
            "args": [s.job.args for s, _ in schedules],
            "crons": [plan.expression if isinstance(plan, Cron) else None for plan in plans],
            "everies": [plan.seconds if isinstance(plan, Every) else None for plan in plans],
            "timezones": [plan.timezone for plan in plans],
            "queues": [s.job.queue for s, _ in schedules],
            "priorities": [s.job.priority for s, _ in schedules],
            "max_attempts": [s.job.max_attempts for s, _ in schedules],
            "tags": [text_array(s.job.tags) for s, _ in schedules],
            "next_ticks": [tick for _, tick in schedules],
        }
        return Query(self._sql(DECLARE), nothing, params)

    def lock_due(self, at_most: int, but: Collection[str] = ()) -> Query[list[Due | Unusable]]:
        """Lock up to `at_most` due schedules for this transaction, leaving out those in `but`."""
        params = {"at_most": at_most, "but": list(but)}
        return Query(self._sql(LOCK_DUE), lambda rows: [_due(row) for row in rows], params)

    def known_ticks(self, ticks: Sequence[tuple[str, datetime]]) -> Query[set[tuple[str, datetime]]]:
        """Those of the ticks that have a row."""
        params = {"schedules": [name for name, _ in ticks], "ticks": [tick for _, tick in ticks]}
        return Query(self._sql(KNOWN_TICKS), lambda rows: {(row[0], row[1]) for row in rows}, params)

    def record_ticks(self, ticks: Sequence[Tick], next_ticks: dict[str, datetime]) -> Query[None]:
        """Record what became of ticks, and when each schedule ticks next."""
        params = {
            "names": list(next_ticks),
            "next_ticks": list(next_ticks.values()),
            "schedules": [t.schedule for t in ticks],
            "ticks": [t.tick for t in ticks],
            "outcomes": [t.outcome for t in ticks],
            "reasons": [t.reason for t in ticks],
            "job_ids": [t.job_id for t in ticks],
        }
        return Query(self._sql(RECORD_TICKS), nothing, params)

    def next_tick(self, but: Collection[str] = ()) -> Query[float | None]:
        """Seconds until the next tick of any schedule, leaving out those in `but`."""
        return Query(self._sql(NEXT_TICK), first_value, {"but": list(but)})


def tick_headers(schedule: str, tick: datetime) -> str:
    """The headers of a job that a schedule fires."""
    return json.dumps({"schedule": schedule, "tick": tick.isoformat()})
