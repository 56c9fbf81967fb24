"""Retrying workflows from what failed: under the same ids, and what has succeeded does not run again."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, fill, first_value, packed
from pgqueue.queries.jobs.metered_parts import LANE
from pgqueue.queries.jobs.parts import MAY_NOTIFY, NOTIFY_WORKERS
from pgqueue.queries.jobs.turns import RESUME_STOPPED

# Lock a workflow for a retry, until the end of the transaction, and with it the upkeep that drops partitions: what is
# there when REVIVE looks is there until it commits. A sweep that deletes its jobs holds this row, and whoever comes
# second waits here, or skips it. Of several retries the second one finds a workflow that runs. By primary key.
_LOCK: LiteralString = """
with turn as materialized (
    select true as mine from pg_advisory_xact_lock_shared(hashtext({channel}), hashtext('make partitions'))
), held as materialized (
    select w.id, w.root_id, w.state, w.settled, w.jobs, w.created_at from {s}.workflow w
    where w.id = %(id)s::bigint and (select count(*) from turn) > 0{ended} for update{skip}
)
select h.id, h.root_id, h.state, h.settled, h.jobs + coalesce((
           select sum(i.jobs) from {s}.workflow i where i.root_id = h.id and i.root_id <> i.id), 0::bigint)::int,
       h.created_at
from held h"""
LOCK_FOR_RETRY: LiteralString = fill(_LOCK, ended="", skip="")
# The same for those who hold other workflows or dead letters already, and must not wait for whoever holds this one:
# nothing comes back for one that somebody else has locked. One that runs is not locked, for ends of its members would
# wait, and with them a discard, for whose dead letters REVIVE waits.
LOCK_FREE_FOR_RETRY: LiteralString = fill(_LOCK, ended=" and w.state <> 'running'", skip=" skip locked")

# Lock the dead letters of a workflow that LOCK_FREE_FOR_RETRY has locked, as far as nobody else holds them, and tell
# whether somebody does: an edit, a discard, a transaction that stays open. REVIVE would wait for these, and whoever
# holds other workflows and dead letters must wait for none. Two who each hold a dead letter that the other one's
# workflow needs would wait for each other. While a job of the workflow lives, nothing comes back; while none does, no
# new dead letter can come. Nobody holds cancelled jobs of it alone: who brings some back has locked the workflow
# (chosen.py). By dead_letter_workflow and job_live_workflow.
LOCK_LETTERS: LiteralString = """
with free as materialized (
    select d.id from {s}.dead_letter d where d.workflow_id = %(id)s::bigint order by d.id for update skip locked
)
select (select count(*) from {s}.dead_letter d where d.workflow_id = %(id)s::bigint) > (select count(*) from free)
    and (select true from {s}.job_live j where j.workflow_id = %(id)s::bigint limit 1) is null"""

# Find the workflows that have counted the ends of these dead letters and cancelled jobs. By primary keys.
COUNTED: LiteralString = """
select d.id, d.workflow_id from {s}.dead_letter d
where d.id = any((select %(ids)s::bigint[])::bigint[]) and d.workflow_id is not null
and d.ties is not null and d.ties::int & 16 = 0
union all
select f.id, f.workflow_id from {s}.job_finished f
where f.id = any((select %(ids)s::bigint[])::bigint[]) and f.state = 'cancelled' and f.workflow_id is not null
and f.ties is not null"""

# The jobs that stay skipped, or will be: an edge of theirs cannot be met, because its parent has succeeded, because the
# group behind it is among `{shut}`, or because its parent is such a job itself. Reads `node` and `edge`. Goes on by the
# primary key of dependency. The naive form, a join with `edge`, looks through all edges for each link of a chain. What
# is no parent is not looked up: among edges of few parents the planner looks through all of them for each.
_NEVER: LiteralString = """never(id) as (
    select e.child_id from edge e
    where e.runs_after = 'f' and e.child_id in (select id from node where state = 'cancelled')
    and (e.parent_id in (select id from node where state = 'succeeded') or e.parent_id = any({shut}))
    union
    select e.child_id from never n cross join lateral (
        select d.child_id from {s}.dependency d
        where d.parent_id = n.id and d.runs_after <> 'e' offset 0) as e
    where (n.id in (select parent_id from edge)) is true
    and (e.child_id in (select id from node where state = 'cancelled')) is true
)"""

# The groups in which a job comes back, and those around them. Reads `{jobs}`: gate_id of each such job.
_REOPENED: LiteralString = """reopened(id) as (
    select c.workflow_id from {jobs} join counter c on c.id = b.gate_id
    union
    select c.workflow_id from reopened r join whole w on w.id = r.id join counter c on c.id = w.gate_id
)"""

# Bring a workflow back from what failed: dead letters and cancelled jobs are live again, as if they had not run, with
# as many edges to wait for as are not met; gates count them again, and the groups that they belong to run again.
# Callbacks that ran stay as they are; those that were skipped wait again. Where not all jobs of the workflow are there,
# because some live or retention has taken some, nothing moves, and the counts say so.
# LOCK_FOR_RETRY has locked the workflow, and no job of it lives, so nobody ends one meanwhile. The naive form, to count
# edges while a parent of them may end, would wait for one that has told of its end already.
# `never` are jobs that cannot run: an edge of theirs is for the failure of what does not run again and has succeeded,
# or comes from such a job. Whether a job runs again that waits for the failure of a group depends on whether a job in
# the group does. So `shut`, the groups that cannot fail because no job of theirs runs again, begins empty and is found
# anew from what it leaves, until it is the same. It only grows: more groups in it are more jobs that never run, and
# these are fewer groups in which a job does; so that ends. Nothing waits for itself, so no other answer is sound. A
# turn takes in one level of groups that wait for the failure of groups; where nothing does, there is none. The naive
# form takes each group that has succeeded for one that cannot fail, and passes over the handler of a group whose
# members were skipped and come back.
# Of `never`, what was skipped stays where it is: no gate counts it. What was cancelled is counted, so its group is
# cancelled: it comes back doomed, CASCADE skips it, and the group ends without it. So a group has succeeded if none of
# its jobs comes back, and its edges are met, but for those to children in `never`. The naive form leaves the cancelled
# job alone. But the gates around it begin anew and count it no more. Then a job that runs after the success or the
# failure of its group has no edge to wait for and begins at once, and a workflow succeeds around a cancelled group.
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
    select f.id, f.state, f.gate_id, f.reason from span cross join lateral (
        select f.id, f.state, f.gate_id, f.reason from {s}.job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.finished_at >= %(created_at)s::timestamptz - interval '1 day') as f
    union all
    select d.id, 'failed', d.gate_id, null from {s}.dead_letter d where d.workflow_id = %(id)s::bigint
), edge as materialized (
    select e.parent_id, e.child_id, e.runs_after from span cross join lateral (
        select d.parent_id, d.child_id, d.runs_after from {s}.dependency d
        where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = %(id)s::bigint) as e
), watched as materialized (
    select distinct w.id from whole w join edge e on e.parent_id = w.id where e.runs_after = 'f'
), shut(ids) as (
    select '{{}}'::bigint[]
    union
    select l.ids from shut cross join lateral (
        with recursive {never_so_far}, {reopened_so_far}
        select array(select id from watched where id not in (select id from reopened) order by id) as ids) as l
    where exists (select from watched)
), {never}, found as materialized (
    select count(*)::int as ended,
           (select count(*) from (select from {s}.job_live j where j.workflow_id = %(id)s::bigint limit 1) as l)::int
               as living
    from node
), back as materialized (
    select n.id, n.gate_id, v.id is not null as doomed from node n left join never v on v.id = n.id cross join found
    where n.state <> 'succeeded' and (v.id is null or n.reason is distinct from 'skipped')
    and found.ended = %(jobs)s::int
), {reopened}, late_no_more as (
    update {s}.dependency d set late = null
    where d.late and d.workflow_id = %(id)s::bigint and exists (select from back)
), waits as materialized (
    select l.id, sum(l.edges)::int as edges, bool_or(l.doomed) as doomed from (
        select e.child_id as id, 1 as edges, false as doomed from edge e join (
            select id from back union all select id from reopened) as p on p.id = e.parent_id
        union all
        select b.id, 1, true from back b where b.doomed) as l
    group by l.id
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
        crash_count, lease, lane, state, waits_for, waits_on, cancel_requested_at, ties, gate_id, workflow_id)
    select g.id, g.task, g.queue, g.priority, g.args, g.tags, g.headers, statement_timestamp(), g.created_at, 0,
           g.max_attempts, 0, g.lease, g.lane,
           case when w.edges is null and g.lane is null then 'pending' else 'blocked' end,
           case when w.edges is not null then 'jobs' when g.lane is not null then 'turn' end, w.edges,
           case when w.doomed then now() end,
           case when g.id in (select parent_id from edge) then coalesce(g.ties::int, 0) | 1 else g.ties end, g.gate_id,
           g.workflow_id
    from gone g left join waits w on w.id = g.id order by g.id
    returning id, queue::text, run_at::timestamptz, lease, state, waits_for, cancel_requested_at is not null as doomed
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
), {notify_workers}, keepers_notified as (
    select count(pg_notify({channel}, '!workflow')) from (select where exists (select from revived where doomed)) as l
    where {may_notify}
)
select found.ended, found.living, (select count(*) from revived)::int
from found, workers_notified, keepers_notified""",
    never_so_far=fill(_NEVER, shut="shut.ids"),
    reopened_so_far=fill(
        _REOPENED,
        jobs="""(
            select n.gate_id from node n left join never v on v.id = n.id
            where n.state <> 'succeeded' and v.id is null) as b""",
    ),
    never=fill(_NEVER, shut="(select ids from shut order by cardinality(ids) desc limit 1)::bigint[]"),
    reopened=fill(_REOPENED, jobs="back b"),
    may_notify=MAY_NOTIFY,
    lane=fill(LANE, headers="g.headers::jsonb"),
    resume_stopped=fill(RESUME_STOPPED, after=""),
    notify_workers=fill(NOTIFY_WORKERS, jobs="due"),
)

# Whether jobs of other queues would come back with a workflow: its dead letters and cancelled jobs there. What has
# succeeded stays as it is, wherever it was. Reads and locks nothing: whoever has locked the workflow for a retry knows
# that none of its jobs lives, so the answer holds until it commits; for everybody else it is a look. Dead letters by
# dead_letter_workflow; finished jobs as REVIVE finds them, by primary key in the ranges of ids that the gates name. The
# naive form, `workflow_id = …` over finished jobs, reads every partition from end to end.
ELSEWHERE: LiteralString = """
with span as materialized (
    select distinct g.first_id, g.last_id, w.created_at
    from {s}.workflow w join {s}.gate g on g.workflow_id = w.id
    where w.id = %(id)s::bigint or w.root_id = %(id)s::bigint and w.root_id <> w.id
)
select exists (
    select from {s}.dead_letter d
    where d.workflow_id = %(id)s::bigint and d.queue::text <> all((select %(queues)s::text[])::text[])
) or exists (
    select from span cross join lateral (
        select from {s}.job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.state = 'cancelled' and f.queue::text <> all((select %(queues)s::text[])::text[])
        and f.finished_at >= span.created_at - interval '1 day' limit 1) as f
)"""

# Tell which of these workflows a retry would bring back now: whole ones that have ended and settled, of which all jobs
# are there, and with which no job outside some queues would come back, where these are given. For a preview: it locks
# nothing, so a retry may find it otherwise. So many jobs are counted in all, of the smallest workflows first; what is
# larger comes back as not looked at. Without that bound a workflow of a million jobs is counted at each look. By
# primary keys, workflow_root, gate_workflow and the index of dead letters of a workflow; finished jobs in the ranges of
# ids that the gates name, as REVIVE reads them.
COMES_BACK: LiteralString = """
with ended as materialized (
    select w.id, w.created_at, w.jobs + within.jobs as jobs, within.ids
    from {s}.workflow w cross join lateral (
        select coalesce(sum(i.jobs), 0::bigint) as jobs, array_agg(i.id) as ids from (
            select i.id, i.jobs from {s}.workflow i where i.root_id = w.id and i.root_id <> w.id
            limit %(most)s::int + 1) as i
    ) as within
    where w.id = any((select %(ids)s::bigint[])::bigint[]) and w.root_id = w.id and w.state <> 'running' and w.settled
), small as materialized (
    select e.*, sum(e.jobs::bigint) over (order by e.jobs, e.id) <= %(most)s::numeric as looked_at from ended e
)
select w.id, w.looked_at from small w cross join lateral (
    select count(*) as jobs, count(*) filter (
               where f.state = 'cancelled' and f.queue <> all((select %(queues)s::text[])::text[])) as elsewhere
    from (select distinct g.first_id, g.last_id from {s}.gate g
          where w.looked_at and g.workflow_id = any(array_append(w.ids, w.id))) as span
    cross join lateral (
        select f.state, f.queue::text as queue from {s}.job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = w.id
        and f.finished_at >= w.created_at - interval '1 day') as f
) as finished cross join lateral (
    select count(*) as jobs, count(*) filter (
               where d.queue::text <> all((select %(queues)s::text[])::text[])) as elsewhere
    from {s}.dead_letter d where w.looked_at and d.workflow_id = w.id
) as dead
where not w.looked_at or w.jobs = finished.jobs + dead.jobs
and (%(queues)s::text[] is null or finished.elsewhere + dead.elsewhere = 0)"""
MOST_COUNTED = 50_000

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
        """Lock a workflow that has ended; None if none with this id has, or if somebody else has it locked."""
        return Query(self._sql(LOCK_FREE_FOR_RETRY), _locked, {"id": workflow})

    def lock_letters(self, locked: LockedWorkflow) -> Query[bool]:
        """Lock the dead letters of a workflow that is locked; returns whether somebody else holds some."""
        return Query(self._sql(LOCK_LETTERS), first_value, {"id": locked.id})

    def counted(self, ids: Sequence[int]) -> Query[dict[int, int]]:
        """Find the workflows that have counted the ends of these jobs, by the id of the job."""
        return Query(self._sql(COUNTED), lambda rows: {row[0]: row[1] for row in rows}, {"ids": packed(ids)})

    def revive(self, locked: LockedWorkflow, reason: str) -> Query[Revived]:
        """Bring a workflow that is locked back from what failed."""
        params = {"id": locked.id, "jobs": locked.jobs, "created_at": locked.created_at, "reason": reason}
        return Query(self._sql(REVIVE), lambda rows: Revived(*rows[0]), params)

    def elsewhere(self, workflow: int, queues: Collection[str]) -> Query[bool]:
        """Find out whether jobs outside these queues would come back with a workflow."""
        return Query(self._sql(ELSEWHERE), first_value, {"id": workflow, "queues": sorted(queues)})

    def comes_back(self, workflows: Collection[int], queues: Collection[str] | None) -> Query[dict[int, bool]]:
        """Tell which of these workflows a retry would bring back now, with no job outside these queues; and, as False,
        which are too large to look at."""
        params = {"ids": packed(sorted(workflows)), "queues": None if queues is None else sorted(queues)}
        return Query(
            self._sql(COMES_BACK), lambda rows: {row[0]: row[1] for row in rows}, {**params, "most": MOST_COUNTED}
        )

    def request_stop(self, workflow: int, reason: str) -> Query[bool]:
        """Ask that a workflow is cancelled; returns whether it runs."""
        return Query(self._sql(REQUEST_STOP), bool, {"id": workflow, "reason": reason})


def _locked(rows: Sequence[Row]) -> LockedWorkflow | None:
    return LockedWorkflow(*rows[0]) if rows else None
