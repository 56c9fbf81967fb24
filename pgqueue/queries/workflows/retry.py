"""Retrying workflows from what failed: under the same ids, and what has succeeded does not run again."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, fill, packed
from pgqueue.queries.jobs.metered_parts import LANE
from pgqueue.queries.jobs.parts import NOTIFY_WORKERS
from pgqueue.queries.jobs.turns import RESUME_STOPPED

# Lock a workflow for a retry, until the end of the transaction, and with it the upkeep that drops partitions: what is
# there when REVIVE looks is there until it commits. A sweep that deletes its jobs holds this row, and whoever comes
# second waits here, or skips it. Of several retries the second one finds a workflow that runs. By primary key.
_LOCK: LiteralString = """
with turn as materialized (
    select true as mine from pg_advisory_xact_lock_shared(hashtext({channel}), hashtext('make partitions'))
), held as materialized (
    select w.id, w.root_id, w.state, w.settled, w.jobs, w.created_at from {s}.workflow w
    where w.id = %(id)s::bigint and (select count(*) from turn) > 0 for update{skip}
)
select h.id, h.root_id, h.state, h.settled, h.jobs + coalesce((
           select sum(i.jobs) from {s}.workflow i where i.root_id = h.id and i.root_id <> i.id), 0::bigint)::int,
       h.created_at
from held h"""
LOCK_FOR_RETRY: LiteralString = fill(_LOCK, skip="")
# The same for those who hold dead letters of it already, and must not wait for whoever holds the workflow: nothing
# comes back for one that somebody else has locked.
LOCK_FREE_FOR_RETRY: LiteralString = fill(_LOCK, skip=" skip locked")

# Find the workflows that have counted the ends of these dead letters and cancelled jobs. By primary keys.
COUNTED: LiteralString = """
select d.id, d.workflow_id from {s}.dead_letter d
where d.id = any((select %(ids)s::bigint[])::bigint[]) and d.workflow_id is not null
and d.ties is not null and d.ties::int & 16 = 0
union all
select f.id, f.workflow_id from {s}.job_finished f
where f.id = any((select %(ids)s::bigint[])::bigint[]) and f.state = 'cancelled' and f.workflow_id is not null
and f.ties is not null"""

# Bring a workflow back from what failed: dead letters and cancelled jobs are live again, as if they had not run, with
# as many edges to wait for as are not met; gates count them again, and the groups that they belong to run again.
# `never` are jobs that stay skipped: an edge of theirs cannot be met, because its parent has succeeded, or stays
# skipped itself. Callbacks that ran stay as they are; those that were skipped wait again. Where not all jobs of the
# workflow are there, because some live or retention has taken some, nothing moves, and the counts say so.
# LOCK_FOR_RETRY has locked the workflow, and no job of it lives, so nobody ends one meanwhile. The naive form, to count
# edges while a parent of them may end, would wait for one that has told of its end already.
# Finished jobs are found by primary key in the ranges of ids that the gates name, in the partitions since the day
# before the workflow was made: a job ends at the time at which the transaction that cancels it has begun.
# Edges that were added late are like the others from here on, told or not: one that nobody has told, because its child
# was skipped for another edge, is counted here, and told once more it would release the child too early. Likewise a
# group that has ended and is not settled, because it stood in for a job that was cancelled: it has nobody to tell.
REVIVE: LiteralString = fill(
    """
with recursive whole as materialized (
    select w.id, w.state, w.gate_id from {s}.workflow w where w.id = %(id)s::bigint
    union all
    select w.id, w.state, w.gate_id from {s}.workflow w where w.root_id = %(id)s::bigint and w.root_id <> w.id
), counter as materialized (
    select g.* from whole cross join lateral (
        select g.id, g.workflow_id, g.first_id, g.last_id from {s}.gate g where g.workflow_id = whole.id) as g
), span as materialized (
    select distinct first_id, last_id from counter
), node as materialized (
    select f.id, f.state, f.gate_id from span cross join lateral (
        select f.id, f.state, f.gate_id from {s}.job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.finished_at >= %(created_at)s::timestamptz - interval '1 day') as f
    union all
    select d.id, 'failed', d.gate_id from {s}.dead_letter d where d.workflow_id = %(id)s::bigint
), edge as materialized (
    select e.parent_id, e.child_id, e.runs_after from span cross join lateral (
        select d.parent_id, d.child_id, d.runs_after from {s}.dependency d
        where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = %(id)s::bigint) as e
), never(id) as (
    select e.child_id from edge e
    where e.runs_after = 'f' and e.child_id in (select id from node where state = 'cancelled')
    and e.parent_id in (select id from node where state = 'succeeded'
                        union all select id from whole where state = 'succeeded')
    union
    select e.child_id from never n join edge e on e.parent_id = n.id
    where e.runs_after <> 'e' and e.child_id in (select id from node where state = 'cancelled')
), found as materialized (
    select count(*)::int as ended,
           (select count(*) from (select from {s}.job_live j where j.workflow_id = %(id)s::bigint limit 1) as l)::int
               as living
    from node
), back as materialized (
    select n.id, n.gate_id from node n cross join found
    where n.state <> 'succeeded' and n.id not in (select id from never) and found.ended = %(jobs)s::int
), reopened(id) as (
    select c.workflow_id from back b join counter c on c.id = b.gate_id
    union
    select c.workflow_id from reopened r join whole w on w.id = r.id join counter c on c.id = w.gate_id
), late_no_more as (
    update {s}.dependency d set late = null
    where d.late and d.workflow_id = %(id)s::bigint and exists (select from back)
), waits as materialized (
    select e.child_id as id, count(*)::int as edges from edge e
    where e.parent_id in (select id from back) or e.parent_id in (select id from reopened) group by e.child_id
), gone_dead as (
    delete from {s}.dead_letter d where d.id = any(array(select id from back))
    returning d.id, d.task, d.queue, d.priority, d.args, d.tags, d.headers, d.created_at, d.max_attempts, d.lease,
        d.ties, d.gate_id, d.workflow_id
), gone_finished as (
    delete from {s}.job_finished f
    where f.id = any(array(select id from back)) and f.state = 'cancelled'
    and f.finished_at >= %(created_at)s::timestamptz - interval '1 day'
    returning f.id, f.task, f.queue, f.priority, f.args, f.tags, f.headers, f.created_at, f.max_attempts, f.lease,
        f.ties, f.gate_id, f.workflow_id
), gone as materialized (
    select g.*, {lane} as lane from (
        select *, 'failed' as was from gone_dead union all select *, 'cancelled' from gone_finished) as g
), revived as (
    insert into {s}.job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, lane, state, waits_for, waits_on, ties, gate_id, workflow_id)
    select g.id, g.task, g.queue, g.priority, g.args, g.tags, g.headers, statement_timestamp(), g.created_at, 0,
           g.max_attempts, 0, g.lease, g.lane,
           case when w.edges is null and g.lane is null then 'pending' else 'blocked' end,
           case when w.edges is not null then 'jobs' when g.lane is not null then 'turn' end, w.edges,
           case when g.id in (select parent_id from edge) then coalesce(g.ties::int, 0) | 1 else g.ties end, g.gate_id,
           g.workflow_id
    from gone g left join waits w on w.id = g.id order by g.id
    returning id, queue::text, run_at::timestamptz, lease, state, waits_for
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, lease, reason)
    select r.id, g.was, r.state, r.lease, %(reason)s::text from revived r join gone g on g.id = r.id
), gates_raised as (
    update {s}.gate g set remaining = m.members, failed = 0, cancelled = 0
    from (select c.gate_id as id, count(*)::int as members from (
              select gate_id from back
              union all select gate_id from whole where id in (select id from reopened)) as c
          where c.gate_id is not null group by c.gate_id) as m
    where g.id = any(array[m.id])
    returning g.workflow_id
), reopening as (
    update {s}.workflow w
    set state = 'running', ended_at = null, settled = false, failed = 0, cancelled = 0, stop_reason = null,
        stop_running = false, open_gates = r.gates
    from (select workflow_id as id, count(*)::int as gates from gates_raised group by workflow_id) as r
    where w.id = any(array[r.id])
), settled as (
    update {s}.workflow w set settled = true
    where w.id = any(array(select id from whole where state <> 'running' except select id from reopened))
    and not w.settled and exists (select from back)
), {resume_stopped}, due as (
    select queue, run_at from revived where waits_for is distinct from 'jobs'
), {notify_workers}
select found.ended, found.living, (select count(*) from revived)::int from found, workers_notified""",
    lane=fill(LANE, headers="g.headers::jsonb"),
    resume_stopped=fill(RESUME_STOPPED, after=""),
    notify_workers=fill(NOTIFY_WORKERS, jobs="due"),
)

# Ask that a workflow is cancelled: its members that have not begun are ended by STOP, and those that run asked to stop.
# Waits for statements that end members now. Gates are locked before the workflow, as everywhere: STOP may follow in the
# same transaction and wait for a gate, while a statement that ends a member holds that gate and waits for the workflow.
# By gate_workflow and the primary keys. Returns nothing for one that has ended.
REQUEST_STOP: LiteralString = """
with whole as materialized (
    select w.id from {s}.workflow w where w.id = %(id)s::bigint
    union all
    select w.id from {s}.workflow w where w.root_id = %(id)s::bigint and w.root_id <> w.id
), gates_held as materialized (
    select g.id from {s}.gate g where g.workflow_id = any(array(select id from whole)) order by g.id for update
)
update {s}.workflow w set stop_reason = %(reason)s::text, stop_running = true
where w.id = %(id)s::bigint and w.state = 'running' and (select count(*) from gates_held) >= 0 returning w.id"""


class LockedWorkflow(NamedTuple):
    """A workflow that is locked for a retry."""

    id: int
    root_id: int
    state: str
    settled: bool
    jobs: int
    created_at: datetime


class Revived(NamedTuple):
    """How many jobs of the workflow had ended, whether some live, and how many of them came back."""

    ended: int
    living: int
    revived: int


class RetryQueries(Statements):
    """Retrying and cancelling workflows."""

    def lock_for_retry(self, workflow: int) -> Query[LockedWorkflow | None]:
        """Lock a workflow; None if there is none with this id."""
        return Query(self._sql(LOCK_FOR_RETRY), _locked, {"id": workflow})

    def lock_free_for_retry(self, workflow: int) -> Query[LockedWorkflow | None]:
        """Lock a workflow; None if there is none with this id, or if somebody else has it locked."""
        return Query(self._sql(LOCK_FREE_FOR_RETRY), _locked, {"id": workflow})

    def counted(self, ids: Sequence[int]) -> Query[dict[int, int]]:
        """Find the workflows that have counted the ends of these jobs, by the id of the job."""
        return Query(self._sql(COUNTED), lambda rows: {row[0]: row[1] for row in rows}, {"ids": packed(ids)})

    def revive(self, locked: LockedWorkflow, reason: str) -> Query[Revived]:
        """Bring a workflow that is locked back from what failed."""
        params = {"id": locked.id, "jobs": locked.jobs, "created_at": locked.created_at, "reason": reason}
        return Query(self._sql(REVIVE), lambda rows: Revived(*rows[0]), params)

    def request_stop(self, workflow: int, reason: str) -> Query[bool]:
        """Ask that a workflow is cancelled; returns whether it runs."""
        return Query(self._sql(REQUEST_STOP), bool, {"id": workflow, "reason": reason})


def _locked(rows: Sequence[Row]) -> LockedWorkflow | None:
    return LockedWorkflow(*rows[0]) if rows else None
