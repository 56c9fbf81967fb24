"""Ending what has waited beyond its time: jobs that were not started, and results."""

from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, nothing, packed, start_of
from pgqueue.queries.jobs.resolve import CARRIED

RESULT_EXPIRED = "result expired"  # the reason of a job that succeeded and whose result was dropped

# Cancel jobs that were not started in time. No claim gives them out any more, whether this has come by or not; so it
# may be late, and here it is only made known. What somebody holds (a claim in flight, a cancellation, another sweeper)
# is skipped, and looked at again when it is free. A job that goes back to pending after an attempt does not expire.
# Reads job_live_expires from `after` on. From the left end, while somebody's snapshot keeps dead entries there, each
# look would step over all of them; the caller knows where it ended the last time, and begins at the left now and then,
# for a job may be committed late. Who waits for a job that ends here is told.
EXPIRE: LiteralString = (
    """
with late as materialized (
    select id, expires_at from {s}.job_live
    where expires_at >= %(after)s::timestamptz and expires_at <= now() and expires_at is not null and attempt = 0
    and state in ('pending', 'blocked')
    order by expires_at limit %(at_most)s for update skip locked
), ended as (
    delete from {s}.job_live j using late
    where j.id = any(array[late.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    returning j.*
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, 'cancelled', 'expired' from ended
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, 'cancelled', attempt, lease, 'expired' from ended
), heard as (
    select count(pg_notify({channel} || '.ended', w.job_id::text))
    from ended cross join lateral (select job_id from {s}.waiter where job_id = ended.id limit 1) as w
    where pg_notification_queue_usage() < 0.5
)
select id, task, queue, expires_at from ended, heard order by expires_at"""
)

# Note when results expire, in the transaction that wrote them. The end is looked up rather than taken for now(): it
# names the partition. One probe of the newest partitions for each result that has a time to live, and none for others.
SET_RESULT_EXPIRY: LiteralString = """
insert into {s}.result_expiry (job_id, finished_at, expires_at)
select g.id, j.finished_at, clock_timestamp() + make_interval(secs => g.ttl)
from unnest((select %(ids)s::bigint[]), (select %(ttls)s::float8[])) as g(id, ttl)
cross join lateral (
    select f.finished_at from {s}.job_finished f
    where f.id = g.id and f.finished_at >= now() - interval '1 minute' and f.result is not null limit 1
) as j
on conflict (job_id) do update set finished_at = excluded.finished_at, expires_at = excluded.expires_at"""

# Drop a batch of results whose time is over; their jobs stay, and say so as their reason. SKIP LOCKED: any number of
# workers may do it. Finds them by the index of result_expiry. `finished_at` is named twice: the bounds prune the
# partitions, and the array keeps the plan on the primary key; joined by `due` alone, every partition is read.
# A partition that retention has dropped meanwhile leaves rows here that find nothing, and go. Returns how many rows
# were due.
DROP_EXPIRED_RESULTS: LiteralString = """
with due as materialized (
    select job_id, finished_at from {s}.result_expiry
    where expires_at <= now() order by expires_at limit %(at_most)s for update skip locked
), dropped as (
    update {s}.job_finished j set result = null, reason = coalesce(j.reason, 'result expired')
    from due
    where j.id = due.job_id and j.finished_at = due.finished_at and j.id = any(array(select job_id from due))
    and j.finished_at >= (select min(finished_at) from due) and j.finished_at <= (select max(finished_at) from due)
), forgotten as (
    delete from {s}.result_expiry e where e.job_id = any(array(select job_id from due))
)
select count(*) from due"""


class ExpiredJob(NamedTuple):
    """A job that was not started in time."""

    id: int
    task: str
    queue: str
    expires_at: datetime


class ExpireQueries(Statements):
    """Ending what has waited beyond its time."""

    def expire(self, at_most: int, after: datetime | None = None) -> Query[list[ExpiredJob]]:
        """Cancel up to `at_most` expired jobs, the oldest first; only those that expired at a time or later."""
        return Query(
            self._sql(EXPIRE),
            lambda rows: [ExpiredJob(*row) for row in rows],
            {"at_most": at_most, "after": start_of(after)},
        )

    def set_result_expiry(self, ttls: Mapping[int, float]) -> Query[None]:
        """Drop the results of jobs that have just ended after these many seconds, by their ids."""
        params = {"ids": packed(ttls), "ttls": packed(ttls.values())}
        return Query(self._sql(SET_RESULT_EXPIRY), nothing, params)

    def drop_expired_results(self, at_most: int) -> Query[int]:
        """Drop results whose time is over, at most so many; returns how many were due."""
        return Query(self._sql(DROP_EXPIRED_RESULTS), lambda rows: int(rows[0][0]), {"at_most": at_most})
