"""SQL that writes plain successes, as most outcomes are: what RESOLVE and its twins do, with nothing to sort out."""

from typing import LiteralString

from pgqueue.queries.base import fill
from pgqueue.queries.jobs.parts import CARRIED, CARRIED_PLAIN, WRITTEN_FIRST
from pgqueue.queries.jobs.ties import COUNT_AT_GATES, TELL_WORKFLOWS, WORKFLOWS_TOLD
from pgqueue.queries.jobs.turns import FREE_OF_SUCCEEDED

# Keep jobs that have succeeded plainly, and log it. Reads `ended`: whole rows of job_live.
_SUCCEEDED: LiteralString = """finished as (
    insert into {s}.job_finished ({carried}, state)
    select {carried}, 'succeeded' from ended where history{returning}
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, 'running', 'succeeded', attempt, lease, worker_id from ended where history{returning}
)"""

# Write a batch of plain successes, as most batches are: what RESOLVE does, with the same promises. One scan of the
# primary key with an array instead of a probe for each row, and nothing to sort out, saves a fifth. The CASE keeps the
# look-up of leases a hashed one; a plain `in` becomes a join.
_SUCCEED: LiteralString = fill(
    """
with ended as (
    delete from {s}.job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running' and {metered}
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    returning j.*
), {history}{and_more}
{answer}""",
    history=_SUCCEEDED,
)
_SUCCEED_UNTOLD: LiteralString = fill(_SUCCEED, carried=CARRIED_PLAIN, returning="", answer="select id from ended")
SUCCEED: LiteralString = fill(_SUCCEED_UNTOLD, metered="j.lane is null and j.ties is null", and_more="")

# Write a batch of plain successes of metered jobs, and give their buckets back, as RESOLVE_METERED does. Jobs that
# have the same buckets are counted together; to collect the headers of each lane instead took longer.
SUCCEED_METERED: LiteralString = fill(
    _SUCCEED_UNTOLD,
    metered="j.lane is not null and j.ties is null",
    and_more=fill(
        """, left_running as materialized (
    select e.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, count(*) as jobs from ended e group by 1
), {free_buckets}""",
        free_buckets=FREE_OF_SUCCEEDED,
    ),
)

# Write a batch of plain successes of counted jobs, for whose end nothing waits but their gate, and count them there:
# what RESOLVE_TIED does, with the same promises. Most jobs of a wide group are such, and to look for children and calls
# that they do not have costs as much as half of the rest. The naive form takes the worker's word for it: a late edge
# or a call may have come since the claim. So the row says it, in the version that is deleted, and RESOLVE_TIED writes
# what is left. Of the ties, those that concern failures do not matter here. Gates and workflows by primary key.
_COUNTED: LiteralString = "j.lane is null and j.ties::int & 15 = 2"
_MOVED_AND_UNSETTLED: LiteralString = """select id, 'moved' from ended
union all select id, 'unsettled' from workflows_told where unsettled"""
SUCCEED_COUNTED: LiteralString = fill(
    _SUCCEED,
    carried=CARRIED,
    metered=_COUNTED,
    returning=" returning 1",
    and_more=fill(
        """, tied as (
    select id, 'succeeded'::text as target, 2 as ties, gate_id, false as skipped from ended
), {count_at_gates}, {tell_workflows}""",
        count_at_gates=fill(COUNT_AT_GATES, first=WRITTEN_FIRST),
        tell_workflows=fill(TELL_WORKFLOWS, forlorn=""),
    ),
    answer=_MOVED_AND_UNSETTLED,
)

# Write the plain success of one counted job, as SUCCEED_COUNTED does. There is one gate and one workflow, so nothing is
# summed up, and the updates lock in the one order. The parts for many take longer to start than all the rest takes.
SUCCEED_ONE_COUNTED: LiteralString = fill(
    """
with ended as (
    delete from {s}.job_live j
    where j.id = %(id)s::bigint and j.lease = %(lease)s::bigint and j.state = 'running' and {counted}
    returning j.*
), {history}, gates_lowered as (
    update {s}.gate g set remaining = g.remaining - 1
    where g.id = (select gate_id from ended) and {written_first}
    returning g.workflow_id, g.remaining = 0 and g.counted as closed, g.failed, g.cancelled
), told as (
    select workflow_id as id, 1 as gates, failed, cancelled, false as stops, false as forlorn
    from gates_lowered where closed
), {workflows_told}
{answer}""",
    counted=_COUNTED,
    history=fill(_SUCCEEDED, carried=CARRIED, returning=" returning 1"),
    written_first=WRITTEN_FIRST,
    workflows_told=fill(WORKFLOWS_TOLD, held=""),
    answer=_MOVED_AND_UNSETTLED,
)
