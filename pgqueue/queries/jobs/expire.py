"""Expiring what has outlived its time: jobs that were not started in time, and results of finished jobs."""

from collections.abc import Mapping
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill, nothing, packed, start_of
from pgqueue.queries.jobs.parts import CANCEL_WAITING
from pgqueue.queries.jobs.ties import FREE

# The reasons of jobs that succeeded and whose results were dropped: by their time to live, or by somebody.
RESULT_EXPIRED, RESULT_DROPPED = "result expired", "result dropped"

# Cancel jobs that were not started in time. A claim passes over such jobs whether this statement has run or not, so it
# may run late: it only makes the end known. Rows that another transaction has locked (a claim in flight, a
# cancellation, another sweeper) are skipped, and jobs with a child that is locked: they are found again later. A job
# that goes back to pending after an attempt does not expire.
# Reads job_live_expires from `after` on. A scan from the left end of the index steps over all dead entries that a long
# transaction keeps there; so the caller remembers where its last scan ended, and begins at the left end only from time
# to time, because a job may be committed late.
EXPIRE: LiteralString = fill(
    """
with late as materialized (
    select id, expires_at from {s}.job_live
    where expires_at >= %(after)s::timestamptz and expires_at <= now() and expires_at is not null and attempt = 0
    and state in ('pending', 'blocked')
    order by expires_at limit %(at_most)s for update skip locked
), {free}, ended as (
    delete from {s}.job_live j using free
    where j.id = any(array[free.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    returning j.*, 'cancelled' as target, 'expired' as reason
), {cancel_waiting}
select id, task, queue, greatest(expires_at, '0001-01-01Z') from ended, waiters_notified order by expires_at""",
    free=fill(FREE, own="late"),
    cancel_waiting=CANCEL_WAITING,
)

# Note when results expire, in the transaction that wrote them. `finished_at` names the partition that holds the job, so
# the statement looks it up instead of taking now(). One probe of the newest partitions for each result that has a time
# to live, and none for others.
SET_RESULT_EXPIRY: LiteralString = """
insert into {s}.result_expiry (job_id, finished_at, expires_at)
select g.id, j.finished_at, clock_timestamp() + make_interval(secs => g.ttl)
from unnest((select %(ids)s::bigint[]), (select %(ttls)s::float8[])) as g(id, ttl)
cross join lateral (
    select f.finished_at from {s}.job_finished f
    where f.id = g.id and f.finished_at >= now() - interval '1 minute' and f.result is not null limit 1
) as j
on conflict (job_id) do update set finished_at = excluded.finished_at, expires_at = excluded.expires_at"""

# Let the result of one job expire now. By the primary keys of the partitions. A job without a result gets no row.
EXPIRE_RESULT: LiteralString = """
insert into {s}.result_expiry (job_id, finished_at, expires_at)
select f.id, f.finished_at, now() from {s}.job_finished f
where f.id = %(id)s::bigint and f.result is not null limit 1
on conflict (job_id) do update set finished_at = excluded.finished_at, expires_at = excluded.expires_at"""

# Drop a batch of results that have expired. Their jobs stay, with the reason 'result expired'. SKIP LOCKED: any number
# of workers may do this at once. By the index of result_expiry. `finished_at` is named twice: the bounds prune the
# partitions, and the array keeps the plan on the primary key; a join with `due` alone reads every partition. Where
# retention has dropped the partition meanwhile, the row finds nothing and goes. `moving` are jobs that this statement
# sees and could not update: upkeep has just moved them out of a default partition. They keep their row and are found
# again; the naive form forgets them, and their results stay. A result that a workflow which lives may want is put off,
# or a callback that reads it after the end, by job_live_workflow; so is that of a called job whose caller has not taken
# it yet.
# Returns how many rows were due.
_DROP: LiteralString = """
with due as materialized ({due}), wanted as materialized (
    select due.job_id from due cross join lateral (
        select j.workflow_id from {s}.job_finished j
        where j.id = due.job_id and j.finished_at = due.finished_at and j.workflow_id is not null limit 1) as j
    cross join lateral (select w.id, w.settled from {s}.workflow w where w.id = j.workflow_id limit 1) as w
    where not w.settled or (select true from {s}.job_live l where l.workflow_id = w.id limit 1) is not null
    union all
    select c.child_id from {s}.call c cross join lateral (
        select from {s}.step t
        where t.job_id = c.job_id and t.name = c.step and t.number = c.number and not t.done limit 1) as t
    where c.child_id = any(array(select job_id from due))
), put_off as (
    update {s}.result_expiry e set expires_at = now() + interval '1 minute'
    where e.job_id = any(array(select job_id from wanted))
), dropped as (
    update {s}.job_finished j set result = null, reason = coalesce(j.reason, '{why}')
    from due
    where j.id = due.job_id and j.finished_at = due.finished_at
    and j.id = any(array(select job_id from due except select job_id from wanted))
    and j.finished_at >= (select min(finished_at) from due) and j.finished_at <= (select max(finished_at) from due)
    returning j.id
), moving as materialized (
    select due.job_id from due cross join lateral (
        select from {s}.job_finished j where j.id = due.job_id and j.finished_at = due.finished_at limit 1) as there
    where due.job_id not in (select id from dropped)
), forgotten as (
    delete from {s}.result_expiry e
    where e.job_id = any(array(select job_id from due where job_id not in (select job_id from moving)))
)
select count(*) from due"""
DROP_EXPIRED_RESULTS: LiteralString = fill(
    _DROP,
    due="""
    select job_id, finished_at from {s}.result_expiry
    where expires_at <= now() order by expires_at limit %(at_most)s for update skip locked
""",
    why="result expired",
)

# The same of one result that has expired, for whoever asks. It waits for a worker that drops the result at this moment.
# By primary key.
DROP_RESULT: LiteralString = fill(
    _DROP,
    due="""
    select job_id, finished_at from {s}.result_expiry
    where job_id = %(id)s::bigint and expires_at <= now() for update
""",
    why="result dropped",
)


class ExpiredJob(NamedTuple):
    """A job that was not started in time."""

    id: int
    task: str
    queue: str
    expires_at: datetime


class ExpireQueries(Statements):
    """Expiring jobs and results."""

    def expire(self, at_most: int, after: datetime | None = None) -> Query[list[ExpiredJob]]:
        """Cancel up to `at_most` expired jobs, the oldest first; only those that expired at a time or later."""
        params = {"at_most": at_most, "after": start_of(after)}
        return Query(self._sql(EXPIRE), lambda rows: [ExpiredJob(*row) for row in rows], params)

    def set_result_expiry(self, ttls: Mapping[int, float]) -> Query[None]:
        """Let the results of jobs that have just ended expire, by their ids, after these many seconds."""
        params = {"ids": packed(ttls), "ttls": packed(ttls.values())}
        return Query(self._sql(SET_RESULT_EXPIRY), nothing, params)

    def expire_result(self, job_id: int) -> Query[None]:
        """Let the result of a job expire now, if it has one."""
        return Query(self._sql(EXPIRE_RESULT), nothing, {"id": job_id})

    def drop_result(self, job_id: int) -> Query[None]:
        """Drop the result of a job, if that has expired and nobody may want it any more."""
        return Query(self._sql(DROP_RESULT), nothing, {"id": job_id})

    def drop_expired_results(self, at_most: int) -> Query[int]:
        """Drop at most so many results that have expired; returns how many were due."""
        return Query(self._sql(DROP_EXPIRED_RESULTS), lambda rows: int(rows[0][0]), {"at_most": at_most})
