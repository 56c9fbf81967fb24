"""Inserting workflows: a whole graph in one statement."""

from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, fill, first_value, lines, packed, sparse
from pgqueue.queries.jobs.enqueue import list_params
from pgqueue.queries.jobs.metered_parts import LANE
from pgqueue.queries.jobs.parts import NOTIFY_WORKERS
from pgqueue.tasks.inputs import with_header
from pgqueue.workflows.gates import Gates, gates_of, inputs_of, parents_first, reordered, ties_of, waits_of
from pgqueue.workflows.graph import Graph

# Insert a graph with all its jobs, edges, gates and groups, in the caller's transaction: it exists whole or not at all.
# Like ENQUEUE it locks nothing that others want: all ids are drawn here, and every row is new. A job that waits for
# others is blocked, and its edges are committed with it, so that each statement that ends a parent sees them.
# Ids are drawn for groups first, then for jobs in order, then for gates; each edge looks its two ids up in an array.
# The naive form, a join of edges with jobs, is planned for a handful of rows and compares each edge with each job: the
# planner does not know how long a text of lines is. The arrays come as text that Postgres takes apart, a graph of
# 10,000 jobs in a quarter of a second; lists that the driver dumps item by item take four times as long.
# Every job of a graph keeps its history: those that wait need its result.
GRAPH: LiteralString = fill(
    r"""grouped as materialized (
    select {group_id} as id, g.*
    from unnest(string_to_array(%(group_names)s, E'\n'), string_to_array(%(group_gates)s, ',', '')::int[],
                string_to_array(%(policies)s, E'\n'), %(open_gates)s::int[])
         with ordinality as g(name, gate, on_failure, open_gates, ord)
), given as materialized (
    select nextval('{s}.job_id') as id, g.ord, g.task, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           {lane} as lane, nullif(g.waits, 0) as waits, g.ties, g.gate,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.ttl)) as expires_at
    from unnest(string_to_array(%(tasks)s, E'\n'), string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[],
                string_to_array(%(run_ats)s, ',', '')::timestamptz[], string_to_array(%(delays)s, ',', '')::float8[],
                string_to_array(%(tags)s, E'\n', ''), string_to_array(%(headers)s, E'\n', ''),
                string_to_array(%(expires)s, ',', '')::timestamptz[], string_to_array(%(ttls)s, ',', '')::float8[],
                %(waits)s::int[], string_to_array(%(ties)s, ',', '')::smallint[],
                string_to_array(%(gates)s, ',', '')::int[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers,
                              expires, ttl, waits, ties, gate, ord)
), gated as materialized (
    select nextval('{s}.job_id') as id, g.*
    from unnest(%(gate_groups)s::int[], %(gate_members)s::int[]) with ordinality as g(of, members, ord)
), groups as materialized (
    select array_agg(id order by ord) as ids from grouped
), nodes as materialized (
    select array_agg(id order by ord) as ids, min(id) as first_id, max(id) as last_id from given
), gates as materialized (
    select array_agg(id order by ord) as ids from gated
), workflows as (
    insert into {s}.workflow (id, root_id, name, gate_id, on_failure, jobs, open_gates{columns})
    select g.id, {root}, g.name, (select ids from gates)[g.gate], g.on_failure,
           case when g.ord = 1 then %(jobs)s::int else 0 end, g.open_gates{values}
    from grouped g{new_groups}
), counters as (
    insert into {s}.gate (id, workflow_id, members, remaining, first_id, last_id{gate_columns})
    select g.id, (select ids from groups)[g.of], g.members, g.members, {first_id},
           coalesce((select last_id from nodes), (select ids from groups)[1]){gate_values}
    from gated g
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at,
                              expires_at, lane, state, waits_for, waits_on, ties, gate_id, workflow_id)
    select id, task, queue, priority, args::jsonb, max_attempts, run_at, coalesce(tags::text[], '{{}}'),
           coalesce(headers::jsonb, '{{}}'), statement_timestamp(), expires_at, lane, {state},
           case when waits is not null then 'jobs' when lane is not null then 'turn' end, waits, ties,
           (select ids from gates)[gate], {root}
    from given order by ord
), edges as (
    insert into {s}.dependency (parent_id, child_id, ord, runs_after, argument, position, workflow_id{late})
    select case when e.parent > 0 then (select ids from nodes)[e.parent]{outside}
                else (select ids from groups)[-e.parent] end,
           (select ids from nodes)[e.child], e.ord, e.runs_after, e.argument, e.position, {root}{is_late}
    from unnest(%(edge_parents)s::int[], %(edge_children)s::int[], string_to_array(%(edge_whens)s, ','),
                string_to_array(%(edge_arguments)s, E'\n', ''), string_to_array(%(edge_positions)s, ',', '')::int[])
         with ordinality as e(parent, child, runs_after, argument, position, ord)
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given order by ord
), first as (
    select queue, run_at from given where waits is null
){more}, {notify_workers}
select groups.ids, nodes.ids, statement_timestamp() from groups, nodes, workers_notified""",
    lane=fill(LANE, headers="g.headers::jsonb"),
    state="case when waits is null and lane is null then 'pending' else 'blocked' end",
    notify_workers=fill(NOTIFY_WORKERS, jobs="first"),
)
ENQUEUE_GRAPH: LiteralString = fill(
    "\nwith " + GRAPH,
    group_id="nextval('{s}.job_id')",
    root="(select ids from groups)[1]",
    first_id="(select ids from groups)[1]",
    columns=", sealed",
    values=", %(sealed)s::bool or g.ord > 1",
    **dict.fromkeys(("new_groups", "gate_columns", "gate_values", "late", "outside", "is_late", "more"), ""),
)


KNOWS = "0037"  # the version of the schema that a worker must know: the migration that made workflows
KNOWS_ADDING = "0041"  # or the one that let them grow

# Find a living worker of a release that knows no workflows: it would end a job and move nothing, and what waits for the
# job would wait for ever. The workers are few. One that starts later is not seen: replace workers before code enqueues
# workflows.
FIND_OLDER: LiteralString = """
select concat_ws(' ', w.host, 'pid', w.pid, 'version', w.version) from {s}.worker w
where w.kind = 'worker' and w.lost_at is null and (w.knows is null or w.knows < %(knows)s::text)
and w.heartbeat_at > now() - make_interval(secs => w.lease_seconds) limit 1"""


class InsertedWorkflow(NamedTuple):
    """The ids of a workflow's groups, the workflow itself first, and of its jobs, both in the order of the graph."""

    groups: list[int]
    jobs: list[int]
    created_at: datetime

    @property
    def id(self) -> int:
        """The id of the workflow."""
        return self.groups[0]


class EnqueueGraphQueries(Statements):
    """Inserting workflows."""

    def find_older(self, knows: str = KNOWS) -> Query[str | None]:
        """Name a living worker that does not know this version of the schema; None if there is none."""
        return Query(self._sql(FIND_OLDER), first_value, {"knows": knows})

    def enqueue(self, graph: Graph) -> Query[InsertedWorkflow]:
        """Insert a graph, which `check` has found sound."""
        order = parents_first(graph)
        if order is not None:
            graph = reordered(graph, order)
        return Query(self._sql(ENQUEUE_GRAPH), lambda rows: inserted(rows[0], order), self._parameters(graph))

    def _parameters(self, graph: Graph) -> dict[str, Any]:
        """Return the parameters of a statement that inserts a graph, whose nodes stand with parents first."""
        jobs, edges, gates = graph.nodes, graph.edges, gates_of(graph)
        headers = [job.headers for job in jobs]
        for node, names in inputs_of(graph).items():
            headers[node] = with_header(headers[node], names)
        params: dict[str, Any] = list_params(jobs, self._args(jobs), headers)
        del params["histories"]
        params |= _groups(graph, gates) | {
            "jobs": len(jobs),
            "sealed": graph.sealed,
            "waits": packed(waits_of(graph)),
            "ties": sparse(ties_of(graph)),
            "gates": sparse([None if gate is None else gate + 1 for gate in gates.of_nodes]),
            "edge_parents": packed([e.parent + 1 if e.parent >= 0 else e.parent for e in edges]),
            "edge_children": packed([e.child + 1 for e in edges]),
            "edge_whens": ",".join([e.when for e in edges]),
            "edge_arguments": lines([e.argument for e in edges]),
            "edge_positions": sparse([e.position for e in edges]),
        }
        return params


def inserted(row: Row, order: list[int] | None) -> InsertedWorkflow:
    groups, jobs, created_at = row[0], row[1] or [], row[2]
    if order is not None:
        jobs = [job for _, job in sorted(zip(order, jobs, strict=True))]
    return InsertedWorkflow(groups, jobs, created_at)


def _groups(graph: Graph, gates: Gates) -> dict[str, Any]:
    opened = [0] * len(graph.groups)
    for group, members in zip(gates.groups, gates.members, strict=True):
        opened[group] += members > 0
    opened[0] += not graph.sealed  # it is one more that is to close
    return {
        "group_names": lines([group.name for group in graph.groups]),
        "group_gates": sparse([None if gate is None else gate + 1 for gate in gates.of_groups]),
        "policies": lines([group.on_failure for group in graph.groups]),
        "open_gates": packed(opened),
        "gate_groups": packed([group + 1 for group in gates.groups]),
        "gate_members": packed(gates.members),
    }
