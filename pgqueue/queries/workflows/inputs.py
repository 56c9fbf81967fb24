"""Reading the inputs of jobs that a worker has claimed: results of the jobs for which they waited."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, LiteralString

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, Statements, packed
from pgqueue.tasks.stand_in import RESULT, RESULTS

# Read the inputs of a batch of claimed jobs in one statement, where a worker still has them: the edges of each that
# have an argument, and what became of their parents. The parent of an edge may be a group: then of each job that is a
# member of it, in the order of ids, or of the jobs whose results are its value, where the group's row names these.
# Edges by dependency_child; parents by primary keys, in the partitions since the day before their workflow was made,
# and members in the ranges of ids that the gates name. Every parent has ended, and retention keeps it while the
# workflow lives.
INPUTS: LiteralString = """
with wanted as materialized (
    select j.id, j.workflow_id, w.created_at - interval '1 day' as since
    from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    cross join lateral (
        select j.id, j.workflow_id from {s}.job_live j
        where j.id = g.id and j.state = 'running' and j.lease = g.lease limit 1) as j
    left join lateral (select w.created_at from {s}.workflow w where w.id = j.workflow_id limit 1) as w on true
), edge as materialized (
    select e.*, w.since, p.state as group_state, p.value_of from wanted w cross join lateral (
        select d.child_id, d.parent_id, d.ord, d.runs_after, d.argument, d.position from {s}.dependency d
        where d.child_id = any(array[w.id]) and d.argument is not null) as e
    left join lateral (
        select w.state, w.value_of from {s}.workflow w where w.id = e.parent_id limit 1) as p on true
), groups as materialized (
    select e.child_id, e.ord, e.since, g.first_id, g.last_id, array_agg(g.id) as gates
    from edge e cross join lateral (
        select g.id, g.first_id, g.last_id from {s}.gate g where g.workflow_id = any(array[e.parent_id])) as g
    where e.group_state is not null and e.value_of is null
    group by e.child_id, e.ord, e.since, g.first_id, g.last_id
), source as materialized (
    select e.child_id, e.ord, p.*, p.id as place from edge e cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb as error from {s}.job_finished f
        where f.id = e.parent_id and f.finished_at >= e.since
        union all
        select d.id, d.task::text, 'failed', null, d.error from {s}.dead_letter d where d.id = e.parent_id) as p
    where e.group_state is null
    union all
    select e.child_id, e.ord, p.*, v.place from edge e
    cross join lateral unnest(e.value_of) with ordinality as v(id, place) cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb from {s}.job_finished f
        where f.id = v.id and f.finished_at >= e.since) as p
    union all
    select g.child_id, g.ord, m.*, m.id from groups g cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb from {s}.job_finished f
        where f.id >= g.first_id and f.id <= g.last_id and f.gate_id = any(g.gates) and f.finished_at >= g.since
        union all
        select d.id, d.task::text, 'failed', null, d.error from {s}.dead_letter d
        where d.id >= g.first_id and d.id <= g.last_id and d.gate_id = any(g.gates)) as m
)
select w.id, e.argument, e.ord, e.position, e.runs_after,
       e.group_state is not null,
       s.task, s.state, s.result::text, s.error::text, e.group_state
from wanted w left join edge e on e.child_id = w.id
left join source s on s.child_id = e.child_id and s.ord = e.ord
order by w.id, e.argument, e.position nulls first, e.ord, s.place"""


class InputQueries(Statements):
    """Reading the inputs of claimed jobs."""

    def inputs(self, jobs: Sequence[ClaimedJob]) -> Query[dict[int, str]]:
        """Read the inputs of jobs as JSON, by their ids; those whose lease is lost are missing."""
        params = {"ids": packed([job.id for job in jobs]), "leases": packed([job.lease for job in jobs])}
        return Query(self._sql(INPUTS), _by_job, params)


def _by_job(rows: Sequence[Row]) -> dict[int, str]:
    return {
        job: json.dumps([
            {"name": name, "state": state} | _argument(list(edges))
            for (name, state), edges in groupby(of_job, key=lambda row: (row[1], _stood_in(row)))
            if name is not None
        ])
        for job, of_job in groupby(rows, key=lambda row: row[0])
    }  # fmt: skip


def _stood_in(row: Row) -> str | None:
    """Return how a group has ended that stood in for the job."""
    return row[-1] if row[1] in (RESULT, RESULTS) else None


def _argument(rows: list[Row]) -> dict[str, Any]:
    """Return one argument: a list where a group or several edges feed it, or an edge with a position."""
    items = list(_items(rows))
    if len(items) == 1 and rows[0][3] is None:
        if isinstance(items[0], list):
            return {"list": True, "items": items[0]}
        return {"list": False, "items": items}
    return {"list": True, "items": items}


def _items(rows: list[Row]) -> Iterator[Any]:
    for _, of_edge in groupby(rows, key=lambda row: row[2]):
        edge = list(of_edge)
        found = [
            {
                "when": when,
                "task": task,
                "state": state,
                "result": None if result is None else json.loads(result),
                "error": None if error is None else json.loads(error),
            }
            for *_, when, _, task, state, result, error, _ in edge
            if task is not None
        ]
        if edge[0][5]:
            yield found
        else:
            yield found[0] if found else {"when": "s", "task": "", "state": None, "result": None, "error": None}
