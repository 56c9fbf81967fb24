"""Queues as operators see and change them: how full each is, who serves it, and whether it is paused."""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.parts import MAY_NOTIFY, PAUSED
from pgqueue.queries.jobs.turns import TURN_AT, WAITS
from pgqueue.queries.jobs.waiting import TURN_LANES

MOST_LEFT = 10_000

# List queues. The view reads the lanes of job_live_ready up to a bound each, and job_live_running and job_live_turn up
# to a bound.
LIST: LiteralString = """
select l.queue, l.due, l.due_capped, l.running, l.scheduled, l.scheduled_capped, l.oldest_due_seconds, l.paused_at,
       l.paused_until, l.paused_by, l.paused_reason, l.workers, l.slots, l.turn, l.turn_capped,
       l.oldest_turn_seconds
from {s}.queue_load l order by l.queue"""

# Pause queues, or change how long and why those are paused that are so already: they keep the beginning of their pause.
# By primary key, in the order of the names, so that two operators who pause the same queues never wait for each other
# in a circle. Claims read the row: one that begins after the commit takes nothing. A claim that is under way may still
# take what its snapshot shows; to close that gap each claim would have to lock the row, and workers would wait for each
# other. Returns nothing where the end has passed.
PAUSE: LiteralString = fill(
    """
insert into {s}.queue as q (name, paused_at, paused_until, paused_by, paused_reason, updated_at, updated_by)
select g.name, clock_timestamp(), e.until, %(by)s::text, %(reason)s::text, clock_timestamp(), %(by)s::text
from unnest(%(queues)s::text[]) as g(name),
     (select coalesce(%(until)s::timestamptz, clock_timestamp() + make_interval(secs => %(seconds)s::float8)) as until)
     as e
where e.until is null or e.until > clock_timestamp() order by g.name
on conflict (name) do update set
    paused_at = case when {paused} then q.paused_at else excluded.paused_at end,
    paused_until = excluded.paused_until, paused_by = excluded.paused_by, paused_reason = excluded.paused_reason,
    updated_at = excluded.updated_at, updated_by = excluded.updated_by
returning q.name""",
    paused=PAUSED,
)

# End pauses, and notify the workers that sleep, at the commit. Locks rows by primary key in the order of their names,
# as PAUSE does. A queue that is not paused is left alone.
RESUME: LiteralString = fill(
    """
with found as (
    select q.name from {s}.queue q where q.name = any(%(queues)s::text[]) and q.paused_at is not null
    order by q.name for update
), resumed as (
    update {s}.queue q set paused_at = null, paused_until = null, paused_by = null, paused_reason = null,
        updated_at = clock_timestamp(), updated_by = %(by)s
    where q.name = any(array(select name from found)) returning q.name
), notified as (
    select count(pg_notify({channel}, resumed.name)) from resumed where {may_notify}
)
select resumed.name from resumed, notified""",
    may_notify=MAY_NOTIFY,
)

# Count what a queue still has to do: due jobs, lane by lane in the order of job_live_ready as DEPTH does, and in that
# of job_live_turn those that are due and wait for their turn, up to a bound; and running ones, by job_live_running,
# which holds no more rows than the workers have slots. The lanes of metered jobs cost a probe each: in each the due
# jobs come first. Without them, the first jobs of the queue might all be for later, and hide one that is due.
LEFT: LiteralString = fill(
    """
with recursive lane(priority) as (
    (select j.priority::smallint from {s}.job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from {s}.job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
), {turn_lanes}
select (select count(*) from (
            (select from lane cross join lateral (
                select from {s}.job_live j
                where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
                and j.run_at::timestamptz <= now()
                order by j.run_at, j.id limit %(most)s::int) as waiting
             limit %(most)s::int)
            union all
            (select from turn cross join lateral (
                select from {s}.job_live j
                where {waits} and j.queue::text = %(queue)s::text and j.lane = turn.lane
                and j.priority::smallint = turn.priority and {turn_at} <= now() and j.run_at::timestamptz <= now()
                order by {turn_at}, j.id limit %(most)s::int) as waiting
             limit %(most)s::int)
            limit %(most)s::int) as counted),
       (select count(*) from {s}.job_live j where j.worker_id is not null and j.queue::text = %(queue)s::text)""",
    turn_lanes=TURN_LANES,
    waits=WAITS,
    turn_at=TURN_AT,
)


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """How full a queue is, and who serves it.

    `turn`: metered jobs that are due, and wait for their turn. `due_capped`, `scheduled_capped` and `turn_capped`:
    there are more than were counted. `workers` claim its jobs, into `slots`.
    """

    queue: str
    due: int
    due_capped: bool
    running: int
    scheduled: int
    scheduled_capped: bool
    oldest_due_seconds: float | None
    paused_at: datetime | None
    paused_until: datetime | None
    paused_by: str | None
    paused_reason: str | None
    workers: int
    slots: int
    turn: int
    turn_capped: bool
    oldest_turn_seconds: float | None


@dataclass(frozen=True, slots=True)
class WorkLeft:
    """How many jobs of a queue are due, up to 10,000, with those that wait for their turn; and how many run.

    Of a task, how many run.
    """

    due: int
    running: int


class QueueQueries(Statements):
    """Queues."""

    def list(self) -> Query[builtins.list[QueueLoad]]:
        """List the queues that hold jobs, are served by name, or were paused once."""
        return Query(self._sql(LIST), lambda rows: [QueueLoad(*row) for row in rows])

    def pause(
        self, queues: Sequence[str], until: datetime | None, seconds: float | None, reason: str | None, by: str
    ) -> Query[builtins.list[str]]:
        """Pause queues until a moment, or for so many seconds; return their names, none if that has passed."""
        params = {"queues": builtins.list(queues), "until": until, "seconds": seconds, "reason": reason, "by": by}
        return Query(self._sql(PAUSE), lambda rows: [row[0] for row in rows], params)

    def resume(self, queues: Sequence[str], by: str) -> Query[builtins.list[str]]:
        """End the pauses of queues; return the names of those that were paused."""
        params = {"queues": builtins.list(queues), "by": by}
        return Query(self._sql(RESUME), lambda rows: [row[0] for row in rows], params)

    def left(self, queue: str) -> Query[WorkLeft]:
        """Count what a queue still has to do now."""
        return Query(self._sql(LEFT), lambda rows: WorkLeft(*rows[0]), {"queue": queue, "most": MOST_LEFT})
