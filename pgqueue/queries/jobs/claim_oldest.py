"""Claiming the jobs that have waited longest, whatever their queue and priority."""

from typing import LiteralString
from uuid import UUID

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.claim import MOVE_PICKED, SERVED_QUEUES, Rooms, claimed_jobs, portion_params
from pgqueue.queries.jobs.parts import NOT_PAUSED

# Claim up to `room` jobs that are due for longer than `max_wait` seconds: of each queue the lane whose first job is due
# for longest, and those lanes in that order. Locks, rooms and the second check are those of CLAIM.
# Hops along job_live_ready from lane to lane and reads the first row of each, as NEXT_DUE does; only then it reads the
# jobs, from the beginning of the lanes that it has chosen. So it costs a probe a lane where no job has waited so long,
# however many wait. The obvious form, `run_at < … order by run_at limit n`, has no index: it reads and sorts all that
# waits.
# One lane a queue, so that the queue's own room holds; the next such claim takes the lane that is oldest then. A first
# row that no claim takes stands for its lane until it is gone: EXPIRE ends it where it has expired, SET_ASIDE takes it
# where its task is paused.
# Dead entries before the first row are walked over, as in CLAIM: worker/claiming/ageing.py bounds the time for that.
CLAIM_OLDEST: LiteralString = fill(
    """
with picked as materialized (
    select ready.id, 'pending' as state
    from (
        select served.name, served.room, first.priority
        from {served_queues}
        cross join lateral (
            with recursive lane(priority, run_at) as (
                (select j.priority::smallint, j.run_at::timestamptz from {s}.job_live j
                 where j.state = 'pending' and j.queue::text = served.name order by j.priority desc, j.run_at limit 1)
                union all
                select following.priority, following.run_at
                from lane cross join lateral (
                    select j.priority::smallint, j.run_at::timestamptz from {s}.job_live j
                    where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < lane.priority
                    order by j.priority desc, j.run_at limit 1) as following
            )
            select lane.priority, lane.run_at from lane order by lane.run_at limit 1
        ) as first
        where first.run_at <= now() - make_interval(secs => (select %(max_wait)s::float8))
        order by first.run_at
    ) as old
    cross join lateral (
        select j.id from {s}.job_live j
        where j.state = 'pending' and j.queue::text = old.name and j.priority::smallint = old.priority
        and j.run_at::timestamptz <= now() - make_interval(secs => (select %(max_wait)s::float8))
        and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
        and {not_paused}
        order by j.run_at, j.id limit least(old.room, (select %(room)s::int)) for update skip locked
    ) as ready
    limit (select %(room)s::int)
), {move_picked}
order by run_at, id""",
    served_queues=SERVED_QUEUES,
    not_paused=NOT_PAUSED,
    move_picked=MOVE_PICKED,
)


class ClaimOldestQueries(Statements):
    """Claiming the jobs that have waited longest."""

    def claim_oldest(self, worker: UUID, rooms: Rooms, room: int, max_wait: float) -> Query[list[ClaimedJob]]:
        """Claim up to `room` jobs that are due for more than `max_wait` seconds; `rooms` as in `claim`."""
        params = {"worker": worker, "room": room, "max_wait": max_wait} | portion_params(rooms)
        return Query(self._sql(CLAIM_OLDEST), lambda rows: claimed_jobs(rows, worker), params)
