"""SQL by which the statement that ends jobs also moves what depends on them: children, gates, workflows.

A job with ties is one whose end somebody waits for. Each statement that deletes from job_live has these parts, or the
guard `ties is null`; tests/statements/test_ends.py finds the statements that delete, and demands it.
"""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Row, fill

# The ended jobs that are to be told of. Reads `ended`: whole rows of job_live, with `target`. A dead letter whose
# workflow holds is no end: it waits for a redrive, or to be discarded. A job that is `{skipped}`, mostly because it was
# doomed, does not count as cancelled: its workflow may succeed.
TIED: LiteralString = """tied as materialized (
    select id, target, ties::int as ties, gate_id,
           {skipped} as skipped
    from ended where ties is not null and not (target = 'failed' and ties::int & 16 > 0)
)"""
DOOMED: LiteralString = "(waits_for = 'jobs' and cancel_requested_at is not null) is true"

# Whether dead letter `j` may be brought back alone: nobody has counted its end, or its workflow holds. A job that was
# called may: its caller keeps what it has recorded of the call.
OPEN: LiteralString = "(j.ties is null or j.ties::int & 16 > 0 or j.ties::int = 4)"

# Whether job `j` of a workflow comes back without it, if somebody asks: a callback whose end nobody waits for, or a job
# that was called.
ALONE: LiteralString = "(j.ties is null or j.ties::int = 4)"

# Lock the workflows of jobs that come back without theirs, out of `{table}`, so that nobody retries one meanwhile: a
# retry brings all of its jobs back, and such a job waits again for the end. `stay` are the jobs whose workflow somebody
# else retries, or prunes; they are left, for the retry waits for no job while it decides what comes back. The naive
# form, to bring a callback back by its row alone, lets the retry find a dead letter that is about to live: it runs
# before the workflow has ended again. KEY SHARE shuts out a retry, and no end of a member that changes the workflow.
# The rows of the jobs are deleted after this, by their newest version: a retry that has committed has taken them. By
# primary keys.
BESIDE: LiteralString = fill(
    """single as materialized (
    select j.id, j.workflow_id from {s}.{table} j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.workflow_id is not null and {alone}
), beside as materialized (
    select w.id from {s}.workflow w where w.id = any(array(select workflow_id from single))
    order by w.id for key share skip locked
), stay as materialized (
    select o.id from single o join {s}.workflow w on w.id = any(array[o.workflow_id])
    where w.id not in (select id from beside)
)""",
    alone=ALONE,
)

# Whether the end of its parent meets an edge.
MET: LiteralString = """(d.runs_after = 'e' or d.runs_after = 's' and t.target = 'succeeded'
        or d.runs_after = 'f' and t.target = 'failed')"""

# The edges below jobs or workflows that are to end. Reads `{own}`: id. By the primary key of dependency.
EDGES: LiteralString = """edge as materialized (
    select d.parent_id, d.child_id, d.runs_after from {s}.dependency d
    where d.parent_id = any(array(select id from {own})) and d.late is not true
)"""

# Lock jobs that are to end, and their children, in one order of ids: whoever ends jobs, or changes some by their ids,
# goes the same way. The naive form, to end the jobs and then lock their children, holds a job while it waits for a
# child with a lower id; who holds that child, because it was asked to cancel both, waits for the job. The statement
# that ends the jobs names `held`. Where nothing depends on them, nothing is locked here. By primary keys.
HOLD: LiteralString = fill(
    """{edges}, held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select child_id from edge
                           union select id from {own} where exists (select from edge)))
    order by j.id for update
)""",
    edges=EDGES,
)

# Lock jobs that are to end, and their children, as far as nobody else has locked them. `free` are those of which all is
# locked; the others are left, and found again. So a statement that has locked rows already, in another order, waits for
# no job. Of children, those that wait for jobs matter. By primary keys.
FREE: LiteralString = fill(
    """{edges}, held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from {own} union select child_id from edge))
    order by j.id for update skip locked
), elsewhere as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select child_id from edge except select id from held)) and (j.waits_for = 'jobs') is true
), free as materialized (
    select o.id from {own} o where o.id in (select id from held)
    and o.id not in (select e.parent_id from edge e where e.child_id in (select id from elsewhere))
)""",
    edges=EDGES,
)

# Count the ends of members at their gates. Reads `tied`: target, ties, gate_id, skipped. Gates are locked in the order
# of ids, after what the condition `{first}` names. By primary key.
COUNT_AT_GATES: LiteralString = """counted as materialized (
    select t.gate_id as id, count(*)::int as ended, (count(*) filter (where t.target = 'failed'))::int as failed,
           (count(*) filter (where t.target = 'cancelled' and not t.skipped))::int as cancelled,
           bool_or(t.target = 'failed' and t.ties & 32 > 0) as stops
    from tied t where t.ties & 2 > 0 group by t.gate_id
), gates_held as materialized (
    select g.id from {s}.gate g
    where g.id = any(array(select id from counted)) and {first}
    order by g.id for update
), gates_lowered as (
    update {s}.gate g
    set remaining = g.remaining - c.ended, failed = g.failed + c.failed, cancelled = g.cancelled + c.cancelled
    from counted c where g.id = any(array[c.id]) and (select count(*) from gates_held) > 0
    returning g.workflow_id, g.remaining = 0 and g.counted as closed, g.failed, g.cancelled, c.stops
)"""

# Tell workflows which of their gates have closed. Reads `told`: id, gates, failed, cancelled, stops, forlorn. `{held}`:
# a condition that names the part which locks. By primary key.
WORKFLOWS_TOLD: LiteralString = """workflows_told as (
    update {s}.workflow w
    set open_gates = w.open_gates - t.gates, failed = w.failed + t.failed, cancelled = w.cancelled + t.cancelled,
        state = case when w.open_gates > t.gates then w.state when w.failed + t.failed > 0 then 'failed'
                     when w.cancelled + t.cancelled > 0 then 'cancelled' else 'succeeded' end,
        ended_at = case when w.open_gates = t.gates then clock_timestamp() end,
        stop_reason = coalesce(w.stop_reason, case when t.stops then 'a job failed' when t.forlorn
                               then 'the job in whose place it ran was cancelled' end),
        stop_running = w.stop_running or t.forlorn
    from told t where w.id = any(array[t.id]){held}
    returning w.id, w.state <> 'running' or w.stop_reason is not null as unsettled
)"""

# The same for many gates. Reads `gates_lowered`, and `{forlorn}`, rows of the same kind. Workflows are locked after the
# gates, in the order of ids. NO KEY, as the update itself would: who brings a callback back alone shares the row, maybe
# in a long transaction (BESIDE).
TELL_WORKFLOWS: LiteralString = fill(
    """told as materialized (
    select id, (count(*) filter (where closed))::int as gates,
           coalesce(sum(failed) filter (where closed), 0::bigint)::int as failed,
           coalesce(sum(cancelled) filter (where closed), 0::bigint)::int as cancelled, bool_or(stops) as stops,
           bool_or(forlorn) as forlorn
    from (select workflow_id as id, closed, failed, cancelled, stops, false as forlorn from gates_lowered{forlorn}) as l
    group by id having bool_or(closed or stops or forlorn)
), workflows_held as materialized (
    select w.id from {s}.workflow w where w.id = any(array(select id from told)) order by w.id for no key update
), {workflows_told}""",
    workflows_told=fill(WORKFLOWS_TOLD, held=" and (select count(*) from workflows_held) > 0"),
)

# Move what depends on jobs or workflows that have ended. Reads `tied`: id, target, ties, gate_id, skipped; and
# `{gone}`, the ids that this statement has deleted; `{held}`, the locked children; `{may_notify}`; `{written}`, a
# condition that names what the statement writes before it locks gates.
# A child counts the edges that are still to be met. Where none is left it is pending, or waits for its turn. A child
# with an edge that cannot be met any more is doomed: it stays blocked with a cancel request, never becomes pending, and
# is ended by CASCADE. A gate counts its members down, a gate at zero its workflow's gates, and the last of those ends
# the workflow, whose own children SETTLE moves. What stands in for a job that is cancelled meanwhile is stopped. A call
# is marked as ended, which DELIVER finds: its caller is moved there and not here. It may just be put to sleep by a
# batch in which a job ends that this batch has called, and each would wait for the other.
# Two ends at once: an update that has waited for a row computes `waits_on - met` from its newest version. The naive
# form, "release the child if no parent is left", sees the other parent still there, in both statements: it lost 1,289
# of 2,000 children that had two.
# Locks: the caller has locked the children, by HOLD or FREE; then come gates, then workflows, each in the order of ids,
# whatever the order in which jobs end. Without the parts that lock first, two batches that share gates would wait for
# each other. Each part names the one before it, for Postgres runs the parts of a statement in an order of its own. One
# update does both what is met and what is not, because a statement cannot update a row twice. Reads `edge`. By primary
# keys. The plain `j.waits_for` with `is true` keeps partial indexes out.
_TELL: LiteralString = fill(
    """steps as materialized (
    select d.child_id as id, (count(*) filter (where {met}))::int as met, bool_or(not {met}) as unmet
    from {stepping}
    group by d.child_id
), children_moved as (
    update {s}.job_live j
    set waits_on = j.waits_on - s.met,
        state = case when j.waits_on = s.met and not s.unmet and j.lane is null then 'pending' else 'blocked' end,
        waits_for = case when j.waits_on > s.met or s.unmet then 'jobs' when j.lane is not null then 'turn' end,
        run_at = case when j.waits_on > s.met or s.unmet then j.run_at::timestamptz
                      else greatest(j.run_at::timestamptz, statement_timestamp()) end,
        cancel_requested_at = case when s.unmet then now() end
    from steps s
    where j.id = any(array[s.id]) and (j.waits_for = 'jobs') is true and j.cancel_requested_at is null
    and (select count(*) from {held}) > 0
    returning j.id, j.queue::text as queue, j.run_at::timestamptz as run_at, j.attempt, j.lease, j.state,
        j.waits_for is distinct from 'jobs' as ready, j.cancel_requested_at is not null as doomed
), children_logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'blocked', state, attempt, lease, 'ready' from children_moved where ready
), calls_ended as (
    update {s}.call c set ended = true, seen = false
    where c.child_id = any(array(select id from tied where ties & 4 > 0)) returning c.child_id
), children_notified as (
    select count(pg_notify({channel}, due.queue)) + (
        select count(pg_notify({channel}, '!signal')) from calls_ended where {may_notify}) as queues
    from (select distinct queue from children_moved where ready and run_at <= statement_timestamp()) as due
    where exists (select from {s}.worker w where w.waiting and due.queue = any(w.queues))
    and {may_notify}
), {count_at_gates}, stand_ins as materialized (
    select e.parent_id as id from tied t cross join lateral (
        select d.parent_id from {s}.dependency d
        where d.child_id = any(array[t.id]) and d.argument in ('pgqueue__result', 'pgqueue__results')) as e
    where t.ties & 64 > 0 and t.target = 'cancelled'
    and (select true from {s}.workflow w where w.id = e.parent_id and w.state = 'running' limit 1)
), {tell_workflows}""",
    count_at_gates=fill(COUNT_AT_GATES, first="(select count(*) from children_moved) >= 0{written}"),
    tell_workflows=fill(
        TELL_WORKFLOWS, forlorn="\n          union all select id, false, 0, 0, false, true from stand_ins"
    ),
    met=MET,
)
TELL: LiteralString = fill(
    _TELL,
    stepping="""tied t join edge d on d.parent_id = t.id
    where t.ties & 1 > 0 and d.child_id not in (select id from {gone})""",
)

# The same for edges that were added late, to a parent that might have been ending. Reads `due`: such edges whose parent
# has ended, locked, each with what became of the parent as `target`.
TELL_LATE: LiteralString = fill(
    """tied as materialized (
    select 0::bigint as id, 'succeeded' as target, 0 as ties, 0::bigint as gate_id, false as skipped where false
), held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select child_id from due)) and (j.waits_for = 'jobs') is true
    order by j.id for update
), {tell}""",
    tell=fill(
        _TELL,
        stepping="due t cross join lateral (select t.child_id, t.runs_after) as d where t.target is not null",
        held="held",
        written="",
    ),
)

# The payload that tells workers of doomed jobs, or of workflows to be settled. No queue can have this name.
WORKFLOW_PAYLOAD = "!workflow"

# Tell the workers what is left to do after TELL, where it is not a worker that runs the statement: they would find it
# within a second or so.
NOTIFY_KEEPERS: LiteralString = """keepers_notified as (
    select count(pg_notify({channel}, '!workflow')) from (
        select where exists (select from children_moved where doomed)
        or exists (select from workflows_told where unsettled)) as left_over
    where {may_notify}
)"""

# What a statement tells its caller beside the jobs that it moved, as rows of an id and a word; and the same for one
# whose rows say more about the jobs that it ends.
_TOLD: LiteralString = """
union all select id, 'ready'{more} from children_moved where ready and run_at <= statement_timestamp()
union all select id, 'doomed'{more} from children_moved where doomed
union all select id, 'unsettled'{more} from workflows_told where unsettled
union all select id, 'late'{more} from tied where ties & 8 > 0
union all select child_id, 'called'{more} from calls_ended
union all select queues, 'notified'{more} from children_notified"""
TOLD: LiteralString = fill(_TOLD, more="")
TOLD_AFTER_CANCELS: LiteralString = fill(_TOLD, more=", null, null, null")
SKIPPED = "skipped"  # the reason of jobs that were doomed


class CancelledJob(NamedTuple):
    """A job that waited and was ended as cancelled."""

    id: int
    task: str
    queue: str
    reason: str


class TiedEnds(NamedTuple):
    """What a statement that ends jobs with ties has done: which jobs it moved, which became due by that, and whether
    jobs are doomed, workflows are to be settled or stopped, edges that were added late are to be told, or callers may
    go on. `cancelled`: the jobs that waited, where nobody names them."""

    moved: set[int]
    ready: set[int]
    doomed: bool
    unsettled: bool
    late: bool = False
    called: bool = False
    cancelled: Sequence[CancelledJob] = ()


def read_ends(rows: Sequence[Row]) -> TiedEnds:
    """Read rows of an id and a word."""
    words: dict[str, set[int]] = {
        "moved": set(),
        "ready": set(),
        "doomed": set(),
        "unsettled": set(),
        "late": set(),
        "called": set(),
        "notified": set(),
    }
    for row in rows:
        words[row[1]].add(row[0])
    doomed, unsettled, late, called = (bool(words[word]) for word in ("doomed", "unsettled", "late", "called"))
    return TiedEnds(words["moved"], words["ready"], doomed, unsettled, late, called)


def read_cancels(rows: Sequence[Row]) -> TiedEnds:
    """Read rows of an id and a word, and of task, queue and reason for each job that was cancelled."""
    cancelled = [CancelledJob(row[0], *row[2:]) for row in rows if row[2] is not None]
    return read_ends(rows)._replace(cancelled=cancelled)
