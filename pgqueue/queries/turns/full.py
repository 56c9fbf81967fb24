"""What becomes of jobs that wait for a full bucket, where its rule says that they should not."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, fill
from pgqueue.queries.jobs.parts import CANCEL_WAITING, MAY_NOTIFY
from pgqueue.queries.jobs.ties import FREE
from pgqueue.queries.jobs.turns import BUCKET, RULES, TURN_AT, WAITS

# Cancel jobs of a lane that wait for a bucket that is full: all, or with `keep_newest` all but the last one. Jobs that
# are not due yet, or that have run before, wait on, and in a lane in order those that have other buckets. The bucket is
# locked, first the row of what was given back, and the newest versions count: where it has room by now nothing is
# cancelled. Job rows that others have locked are left for the next time, so that nobody waits for them behind the
# bucket; so are jobs of which others have locked a child, the gate or its workflow, which are locked before buckets
# everywhere else. By job_live_turn, and the right end of the primary key of the counter; `is true` keeps the planner
# from deleting by that index, of which it would read all, and what is not of the index is compared after the limit, or
# within a `case`, for with more conditions the planner sorts the lane.
CANCEL_BEHIND: LiteralString = fill(
    """
with freed as materialized (
    select f.name, f.freed
    from (select version from {s}.limit_freed where name = %(bucket)s::text order by version desc limit 1) as s
    cross join lateral (
        select * from {s}.limit_freed f
        where f.name = any(array[%(bucket)s::text]) and f.version >= s.version for update) as f
), counter as materialized (
    select u.name, u.rule, u.taken - f.freed as running from freed f
    cross join lateral (
        select version from {s}.limit_use where name = f.name order by version desc limit 1) as s
    cross join lateral (
        select * from {s}.limit_use u where u.name = any(array[f.name]) and u.version >= s.version for update) as u
), full_bucket as materialized (
    select u.name from counter u
        {rules}
    where coalesce(k.max_running, r.max_running) <= u.running
), newest as materialized (
    select j.id from {s}.job_live j
    where {waits} and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
    and j.priority::smallint = %(priority)s::smallint and {turn_at} <= now() and j.lease = 0
    and case when j.lane < 0 then j.headers::jsonb -> '$flow'::text -> 'buckets'::text
        @> jsonb_build_array(%(bucket)s::text) else true end
    order by {turn_at} desc, j.id desc limit case when %(keep_newest)s::bool then 1 else 0 end
), behind as materialized (
    select j.id, j.gate_id from full_bucket cross join lateral (
        select j.id, j.gate_id, j.lease, j.run_at::timestamptz as run_at,
               j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> jsonb_build_array(%(bucket)s::text) as behind
        from {s}.job_live j
        where {waits} and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
        and j.priority::smallint = %(priority)s::smallint and {turn_at} <= now()
        order by {turn_at}, j.id limit (select %(at_most)s::int) for update skip locked
    ) as j
    where j.behind and j.lease = 0 and j.run_at <= now() and j.id not in (select id from newest)
), {free}, gates_free as materialized (
    select g.id, g.workflow_id from {s}.gate g
    where g.id = any(array(select gate_id from behind)) for update skip locked
), workflows_free as materialized (
    select w.id from {s}.workflow w
    where w.id = any(array(select workflow_id from gates_free)) for no key update skip locked
), ended as (
    delete from {s}.job_live j
    where j.id = any(array(
        select b.id from behind b join free f on f.id = b.id
        where b.gate_id is null
        or b.gate_id in (select id from gates_free where workflow_id in (select id from workflows_free))))
    and (j.state = 'blocked') is true
    returning j.*, 'cancelled' as target, %(reason)s::text as reason
), {cancel_waiting}
select id, task::text, queue::text from ended, waiters_notified""",
    rules=RULES,
    waits=WAITS,
    turn_at=TURN_AT,
    free=fill(FREE, own="behind"),
    cancel_waiting=CANCEL_WAITING,
)

# Ask as many running jobs of a full bucket to stop as jobs wait for it, the oldest first; those that were asked before
# count. The bucket is not locked: who holds a running job's row may wait for the bucket. By job_live_running.
CANCEL_HOLDERS: LiteralString = fill(
    """
with waiting as (
    select count(*) as jobs from (
        select from {s}.job_live j
        where {waits} and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
        and j.priority::smallint = %(priority)s::smallint and {turn_at} <= now() and j.run_at::timestamptz <= now()
        limit 100) as w
), holders as materialized (
    select j.id, j.claimed_at, j.cancel_requested_at is not null as asked from {s}.job_live j
    where j.worker_id is not null and j.lane is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> jsonb_build_array(%(bucket)s::text)
), chosen as materialized (
    select j.id from (
        select h.id from holders h where not h.asked order by h.claimed_at, h.id
        limit greatest((select jobs from waiting) - (select count(*) from holders where asked), 0::bigint)) as h
    cross join lateral (
        select j.id from {s}.job_live j where j.id = h.id and j.state = 'running' limit 1 for update skip locked) as j
), requested as (
    update {s}.job_live j set cancel_requested_at = now()
    where j.id = any(array(select id from chosen)) and j.state = 'running' and j.cancel_requested_at is null
    returning j.id, j.task::text, j.queue::text
), workers_notified as (
    select count(pg_notify({channel}, '!cancel')) from requested where {may_notify}
)
select requested.id, task, queue from requested, workers_notified""",
    waits=WAITS,
    turn_at=TURN_AT,
    may_notify=MAY_NOTIFY,
)


# Find the jobs that keep places of a full bucket while they wait, the oldest first, as many as wait for it beyond
# those that were asked to stop and beyond the places that are free. A job that was cancelled while it waited is among
# neither the asked nor those that wait, but has made room: without asking for that, each worker that has seen the
# full bucket cancels one more. Of two that ask at once both find the same ones. The caller cancels them as anybody
# does: one that has gone on by then is asked to stop. By limit_hold_bucket and primary key, and job_live_running;
# where no place is kept nothing else is read.
KEEPERS: LiteralString = fill(
    """
with kept as materialized (
    select h.job_id from {s}.limit_hold h cross join lateral (
        select from {s}.job_live j
        where j.id = h.job_id and j.lease = h.lease and j.state = 'blocked' limit 1) as j
    where h.bucket = %(bucket)s::text order by h.job_id limit 100
), waiting as (
    select count(*) as jobs from (
        select from {s}.job_live j
        where {waits} and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
        and j.priority::smallint = %(priority)s::smallint and {turn_at} <= now() and j.run_at::timestamptz <= now()
        limit 100) as w
    where exists (select from kept)
), asked as (
    select count(*) as jobs from {s}.job_live j
    where exists (select from kept) and j.worker_id is not null and j.lane is not null
    and j.cancel_requested_at is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> jsonb_build_array(%(bucket)s::text)
), bucket as (
    select greatest(coalesce(k.max_running, r.max_running) - u.running, 0) as room
    from {bucket} as u
        {rules}
    where exists (select from kept) and coalesce(k.max_running, r.max_running) is not null
)
select k.job_id from kept k order by k.job_id
limit greatest((select jobs from waiting) - (select jobs from asked) - (select room from bucket), 0::bigint)""",
    bucket=fill(BUCKET, name="%(bucket)s::text"),
    rules=RULES,
    waits=WAITS,
    turn_at=TURN_AT,
)


class FullLane(NamedTuple):
    """A lane whose jobs wait for a full bucket, and the policy of its rule: skip, replace_waiting or cancel_running."""

    queue: str
    lane: int
    priority: int
    bucket: str
    policy: str

    @property
    def reason(self) -> str:
        """Why a waiting job is cancelled."""
        done = "replaced by a newer job" if self.policy == "replace_waiting" else "skipped"
        return f"{done}: {self.bucket} is full"


class StoppedJob(NamedTuple):
    """A job that was cancelled, or asked to stop."""

    id: int
    task: str
    queue: str


class FullQueries(Statements):
    """What becomes of jobs that wait for a full bucket."""

    def cancel_behind(self, full: FullLane, at_most: int) -> Query[list[StoppedJob]]:
        """Cancel jobs of the lane, as its policy skip or replace_waiting says; returns those that were."""
        params = {**_of(full), "reason": full.reason, "at_most": at_most}
        params["keep_newest"] = full.policy == "replace_waiting"
        return Query(self._sql(CANCEL_BEHIND), _stopped, params)

    def cancel_holders(self, full: FullLane) -> Query[list[StoppedJob]]:
        """Ask running jobs of the bucket to stop, as many as wait; returns those that were asked now."""
        return Query(self._sql(CANCEL_HOLDERS), _stopped, _of(full))

    def keepers(self, full: FullLane) -> Query[list[int]]:
        """Find jobs that keep places of the bucket while they wait, as many as wait for it and nobody was asked for."""
        return Query(self._sql(KEEPERS), lambda rows: [row[0] for row in rows], _of(full))


def _of(full: FullLane) -> dict[str, object]:
    return {"queue": full.queue, "lane": full.lane, "priority": full.priority, "bucket": full.bucket}


def _stopped(rows: Sequence[Row]) -> list[StoppedJob]:
    return [StoppedJob(*row) for row in rows]
