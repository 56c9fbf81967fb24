"""Adding to workflows that run: what stands in for a job, and what a job or a caller adds."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, fill, packed
from pgqueue.queries.workflows.enqueue import GRAPH, EnqueueGraphQueries, InsertedWorkflow, inserted
from pgqueue.tasks.stand_in import RESULT, RESULTS
from pgqueue.workflows.gates import parents_first, reordered
from pgqueue.workflows.graph import Graph

# Lock a job of this worker that adds to its workflow, under its lease, until the end of the transaction; return the
# workflow, and the group of which it is a member. So it cannot end before what it adds is there. A job of no workflow
# gets one of its own, whose only member it is. `{states}`: running, or blocked, where the statement before this one has
# written in the same transaction that it is replaced. By primary key. Returns nothing where the lease is lost.
# Its gate names the id of the job alone, so that readers find it: it was not drawn with the rest of its workflow.
_ENTER: LiteralString = """
with own as materialized (
    select j.id, j.task::text as task, j.workflow_id, j.gate_id, coalesce(j.ties::int, 0) as ties from {s}.job_live j
    where j.id = %(id)s::bigint and j.lease = %(lease)s and {states} for update
), drawn as materialized (
    select nextval('{s}.job_id') as workflow_id, nextval('{s}.job_id') as gate_id, own.id, own.task
    from own where own.workflow_id is null
), workflow as (
    insert into {s}.workflow (id, root_id, name, jobs, open_gates)
    select workflow_id, workflow_id, substr(task, 1, 200), 1, 1 from drawn
), gate as (
    insert into {s}.gate (id, workflow_id, members, remaining, first_id, last_id)
    select gate_id, workflow_id, 1, 1, id, id from drawn
), joined as (
    update {s}.job_live j
    set workflow_id = d.workflow_id, gate_id = d.gate_id, ties = coalesce(j.ties::int, 0) | 2, history = true
    from drawn d where j.id = any(array[d.id])
)
select coalesce(d.workflow_id, o.workflow_id),
       coalesce(d.workflow_id, (select g.workflow_id from {s}.gate g where g.id = o.gate_id)), o.ties
from own o left join drawn d on true"""
ENTER_REPLACED: LiteralString = fill(_ENTER, states="j.state = 'blocked' and j.waits_for in ('task', 'turn')")

# Let a graph run in the place of a job: its first group is new and a member of none, and the job waits for the end of
# that group. The job stays where it is, with all that waits for it, and ends when the group has ended; so nothing that
# others have written about it moves, whoever is writing at this moment. ENTER_REPLACED has locked the job in this
# transaction. Locks nothing but that row.
# The naive form lets the job end, and gives what waits for it to the last jobs of the graph: a gate that closes, a
# child that is released, a retry and the order of results would each need to know.
# The job waits for the group and not for the jobs of it: they have higher ids, and whoever ends one of them would lock
# this job after it. It expires no more, for it has run.
REPLACE: LiteralString = fill(
    GRAPH,
    group_id="nextval('{s}.job_id')",
    root="%(root)s::bigint",
    first_id="(select ids from groups)[1]",
    columns=", replaces, value_of",
    values=""", case when g.ord = 1 then %(job)s::bigint end,
           case when g.ord = 1 then array(select (select ids from nodes)[v.node] from unnest(%(value)s::int[])
                                          with ordinality as v(node, ord) order by v.ord) end""",
    new_groups="",
    gate_columns="",
    gate_values="",
    late="",
    outside="",
    is_late="",
    more=""", behind as (
    insert into {s}.dependency (parent_id, child_id, ord, runs_after, argument, workflow_id)
    select (select ids from groups)[1], %(job)s::bigint, 0, 'e', %(argument)s::text, %(root)s::bigint
), waiting as (
    update {s}.job_live j
    set waits_for = 'jobs', waits_on = 1, ties = coalesce(j.ties::int, 0) | 64, expires_at = null,
        headers = j.headers::jsonb || jsonb_build_object('$inputs'::text,
            coalesce(j.headers::jsonb -> '$inputs'::text, '[]'::jsonb) || to_jsonb(%(argument)s::text))
    where j.id = %(job)s::bigint
)""",
)


class Entered(NamedTuple):
    """A job that adds to its workflow: the workflow, the group of which the job is a member, None for a callback, and
    what its own end tells, as bits."""

    workflow: int
    group: int | None
    ties: int


class AddingQueries(EnqueueGraphQueries):
    """Adding to workflows that run."""

    def enter_replaced(self, job: ClaimedJob) -> Query[Entered | None]:
        """Lock a job that was just written as replaced; None if it was not, because its lease is lost, or because it
        has ended as cancelled."""
        return Query(self._sql(ENTER_REPLACED), _entered, {"id": job.id, "lease": job.lease})

    def replace(self, job: int, workflow: int, graph: Graph) -> Query[InsertedWorkflow]:
        """Let a graph, which `check` has found sound, run in the place of a job of a workflow."""
        order = parents_first(graph)
        if order is not None:
            graph = reordered(graph, order)
        params = self._parameters(graph) | {
            "root": workflow,
            "job": job,
            "argument": RESULTS if graph.gives_list else RESULT,
            "value": packed([node + 1 for node in graph.value]),
        }
        return Query(self._sql(REPLACE), lambda rows: inserted(rows[0], order), params)


def _entered(rows: Sequence[Row]) -> Entered | None:
    return Entered(*rows[0]) if rows else None
