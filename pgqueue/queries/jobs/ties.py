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

# Whether dead letter `d` may be brought back alone: nobody has counted its end, or its workflow holds. A job that was
# called may: its caller keeps what it has recorded of the call.
OPEN: LiteralString = "(d.ties is null or d.ties::int & 16 > 0 or d.ties::int = 4)"

# Whether the end of its parent meets an edge.
MET: LiteralString = """(d.runs_after = 'e' or d.runs_after = 's' and t.target = 'succeeded'
        or d.runs_after = 'f' and t.target = 'failed')"""

# Move what depends on jobs or workflows that have ended. Reads `tied`: id, target, ties, gate_id, skipped; and
# `{gone}`, the ids that this statement has deleted, `{may_notify}`.
# A child counts the edges that are still to be met. Where none is left it is pending, or waits for its turn. A child
# with an edge that cannot be met any more is doomed: it stays blocked with a cancel request, never becomes pending, and
# is ended by CASCADE. A gate counts its members down, a gate at zero its workflow's gates, and the last of those ends
# the workflow, whose own children SETTLE moves. A call is marked as ended, which DELIVER finds: its caller is moved
# there and not here. It may just be put to sleep by a batch in which a job ends that this batch has called, and each
# would wait for the other.
# Two ends at once: an update that has waited for a row computes `waits_on - met` from its newest version. The naive
# form, "release the child if no parent is left", sees the other parent still there, in both statements: it lost 1,289
# of 2,000 children that had two.
# Locks: children in the order of ids, then gates, then workflows, whatever the order in which jobs end; without the
# parts that lock first, two batches that share children would wait for each other. Each part names the one before it,
# for Postgres runs the parts of a statement in an order of its own. One update does both what is met and what is not,
# because a statement cannot update a row twice. By primary keys: dependency's by the parent. The plain `j.waits_for`
# with `is true` keeps partial indexes out.
TELL: LiteralString = fill(
    """steps as materialized (
    select d.child_id as id, (count(*) filter (where {met}))::int as met, bool_or(not {met}) as unmet
    from tied t cross join lateral (
        select e.child_id, e.runs_after from {s}.dependency e
        where e.parent_id = any(array[t.id]) and e.late is not true) as d
    where t.ties & 1 > 0 and d.child_id not in (select id from {gone})
    group by d.child_id
), children_held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from steps)) and (j.waits_for = 'jobs') is true
    order by j.id for update
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
    and (select count(*) from children_held) > 0
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
), counted as materialized (
    select t.gate_id as id, count(*)::int as ended, (count(*) filter (where t.target = 'failed'))::int as failed,
           (count(*) filter (where t.target = 'cancelled' and not t.skipped))::int as cancelled,
           bool_or(t.target = 'failed' and t.ties & 32 > 0) as stops
    from tied t where t.ties & 2 > 0 group by t.gate_id
), gates_held as materialized (
    select g.id from {s}.gate g
    where g.id = any(array(select id from counted)) and (select count(*) from children_moved) >= 0
    order by g.id for update
), gates_lowered as (
    update {s}.gate g
    set remaining = g.remaining - c.ended, failed = g.failed + c.failed, cancelled = g.cancelled + c.cancelled
    from counted c where g.id = any(array[c.id]) and (select count(*) from gates_held) > 0
    returning g.workflow_id, g.remaining = 0 as closed, g.failed, g.cancelled, c.stops
), told as materialized (
    select workflow_id as id, (count(*) filter (where closed))::int as gates,
           coalesce(sum(failed) filter (where closed), 0::bigint)::int as failed,
           coalesce(sum(cancelled) filter (where closed), 0::bigint)::int as cancelled, bool_or(stops) as stops
    from gates_lowered group by workflow_id having bool_or(closed or stops)
), workflows_held as materialized (
    select w.id from {s}.workflow w where w.id = any(array(select id from told)) order by w.id for update
), workflows_told as (
    update {s}.workflow w
    set open_gates = w.open_gates - t.gates, failed = w.failed + t.failed, cancelled = w.cancelled + t.cancelled,
        state = case when w.open_gates > t.gates then w.state when w.failed + t.failed > 0 then 'failed'
                     when w.cancelled + t.cancelled > 0 then 'cancelled' else 'succeeded' end,
        ended_at = case when w.open_gates = t.gates then clock_timestamp() end,
        stop_reason = coalesce(w.stop_reason, case when t.stops then 'a job failed' end)
    from told t where w.id = any(array[t.id]) and (select count(*) from workflows_held) > 0
    returning w.id, w.state <> 'running' or w.stop_reason is not null as unsettled
)""",
    met=MET,
)

# What a statement tells its caller beside the jobs that it moved, as rows of an id and a word.
TOLD: LiteralString = """
union all select id, 'ready' from children_moved where ready and run_at <= statement_timestamp()
union all select id, 'doomed' from children_moved where doomed
union all select id, 'unsettled' from workflows_told where unsettled
union all select child_id, 'called' from calls_ended
union all select queues, 'notified' from children_notified"""


class TiedEnds(NamedTuple):
    """What a statement that ends jobs with ties has done: which jobs it moved, which became due by that, and whether
    jobs are doomed, workflows are to be settled or stopped, or callers may go on."""

    moved: set[int]
    ready: set[int]
    doomed: bool
    unsettled: bool
    called: bool = False


def read_ends(rows: Sequence[Row]) -> TiedEnds:
    """Read rows of an id and a word."""
    words: dict[str, set[int]] = {
        "moved": set(),
        "ready": set(),
        "doomed": set(),
        "unsettled": set(),
        "called": set(),
        "notified": set(),
    }
    for number, word in rows:
        words[word].add(number)
    moved, ready, doomed, unsettled, called, _ = words.values()
    return TiedEnds(moved, ready, bool(doomed), bool(unsettled), bool(called))
