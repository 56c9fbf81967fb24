"""Reading the inputs of jobs that a worker has claimed: results of the jobs for which they waited."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, LiteralString

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, Statements, fill, first_value, packed
from pgqueue.tasks.results import ResultPage
from pgqueue.tasks.stand_in import RESULT, RESULTS

# How many members of `t` are groups: those have no result of their own here.
_WITHIN: LiteralString = """(
        select count(*) from {s}.workflow n
        where n.root_id = t.root_id and n.root_id <> n.id and n.gate_id = any(t.gates))"""

# Read the inputs of a batch of claimed jobs in one statement, where a worker still has them: the edges of each that
# have an argument, and what became of their parents. The parent of an edge may be a group: then of each job that is a
# member of it, in the order of ids, or of the jobs whose results are its value, where the group's row names these.
# Edges by dependency_child; parents by primary keys, in the partitions since the day before their workflow was made,
# and members in the ranges of ids that the gates name. Every parent has ended, and retention keeps it while a job of
# the workflow lives. Of the arguments in `later`, `id name`, whose whole value one group is, the members are left out,
# and the answer says so: the job reads them page by page. A group in a list of one is no such argument. Of a group that
# has succeeded the answer says how many members are gone, as after rows were deleted by hand: a part would look like
# the whole. Only where fewer are found than its gates counted are groups within it looked for, by workflow_root.
INPUTS: LiteralString = fill(
    """
with wanted as materialized (
    select j.id, j.workflow_id, w.created_at - interval '1 day' as since
    from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    cross join lateral (
        select j.id, j.workflow_id from {s}.job_live j
        where j.id = g.id and j.state = 'running' and j.lease = g.lease limit 1) as j
    left join lateral (select w.created_at from {s}.workflow w where w.id = j.workflow_id limit 1) as w on true
), edge as materialized (
    select e.*, w.since, p.state as group_state, p.root_id, p.value_of,
           case when e.child_id::text || ' '::text || e.argument = any((select %(later)s::text[])::text[])
                     and e.position is null and p.id is not null
                then (select true from {s}.dependency o where o.child_id = any(array[e.child_id])
                      and o.argument = e.argument and o.ord <> e.ord limit 1) is null else false end as is_later
    from wanted w cross join lateral (
        select d.child_id, d.parent_id, d.ord, d.runs_after, d.argument, d.position from {s}.dependency d
        where d.child_id = any(array[w.id]) and d.argument is not null) as e
    left join lateral (
        select w.id, w.root_id, w.state, w.value_of from {s}.workflow w where w.id = e.parent_id limit 1) as p on true
), groups as materialized (
    select e.child_id, e.ord, e.since, g.first_id, g.last_id, array_agg(g.id) as gates
    from edge e cross join lateral (
        select g.id, g.first_id, g.last_id from {s}.gate g where g.workflow_id = any(array[e.parent_id])) as g
    where e.group_state is not null and e.value_of is null and not e.is_later
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
        where f.id = v.id and f.finished_at >= e.since) as p where not e.is_later
    union all
    select g.child_id, g.ord, m.*, m.id from groups g cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb from {s}.job_finished f
        where f.id >= g.first_id and f.id <= g.last_id and f.gate_id = any(g.gates) and f.finished_at >= g.since
        union all
        select d.id, d.task::text, 'failed', null, d.error from {s}.dead_letter d
        where d.id >= g.first_id and d.id <= g.last_id and d.gate_id = any(g.gates)) as m
), found as (
    select s.child_id, s.ord, count(*) as jobs from source s group by s.child_id, s.ord
), whole as (
    select e.child_id, e.ord, e.root_id, sum(g.members) as members, array_agg(g.id) as gates
    from edge e cross join lateral (
        select g.id, g.members from {s}.gate g where g.workflow_id = any(array[e.parent_id])) as g
    where e.group_state = 'succeeded' and e.value_of is null and not e.is_later
    group by e.child_id, e.ord, e.root_id
), short as materialized (
    select t.child_id, t.ord, t.members - coalesce(f.jobs, 0::bigint) - {within} as gone
    from whole t left join found f on f.child_id = t.child_id and f.ord = t.ord
    where t.members > coalesce(f.jobs, 0::bigint)
)
select w.id, e.argument, e.ord, e.position, e.runs_after,
       e.group_state is not null,
       s.task, s.state, s.result::text, s.error::text, h.gone, e.is_later, e.group_state
from wanted w left join edge e on e.child_id = w.id
left join short h on h.child_id = e.child_id and h.ord = e.ord
left join source s on s.child_id = e.child_id and s.ord = e.ord
order by w.id, e.argument, e.position nulls first, e.ord, s.place""",
    within=_WITHIN,
)


# Read the next results of an argument that one group feeds, behind a place: the id of a member, or the number among the
# jobs whose results are the value of the group. A page is a window of places, so it costs the same whatever the planner
# thinks; the naive form, a limit, reads and sorts the rest of the group for each page. Windows begin where the group's
# next gate does, which names the ids that were drawn with it. By dependency_child, gate_workflow and primary keys, as
# INPUTS. No lease is asked for: what has ended does not change.
RESULTS_PAGE: LiteralString = """
with edge as materialized (
    select d.runs_after, w.id, w.value_of, w.created_at - interval '1 day' as since
    from {s}.dependency d cross join lateral (select w.* from {s}.workflow w where w.id = d.parent_id limit 1) as w
    where d.child_id = any(array[%(job)s::bigint]) and d.argument = %(argument)s::text
), counted as materialized (
    select g.id, g.first_id, g.last_id from edge e cross join lateral (
        select g.* from {s}.gate g where g.workflow_id = any(array[e.id])) as g where e.value_of is null
), page as materialized (
    select e.*, p.start, p.start + %(window)s::bigint as reached from edge e cross join lateral (
        select case when e.value_of is null then (select min(greatest(c.first_id - 1, %(after)s::bigint))
                                                  from counted c where c.last_id > %(after)s::bigint)
                    when %(after)s::bigint < cardinality(e.value_of) then %(after)s::bigint end as start) as p
)
select p.reached, n.place, p.runs_after, n.task, n.state, n.result::text, n.error::text
from page p left join lateral (
    select f.id as place, f.task::text, f.state, f.result, null::jsonb as error from {s}.job_finished f
    where f.id > p.start and f.id <= p.reached and f.gate_id = any(array(select id from counted))
    and f.finished_at >= p.since
    union all
    select d.id, d.task::text, 'failed', null, d.error from {s}.dead_letter d
    where d.id > p.start and d.id <= p.reached and d.gate_id = any(array(select id from counted))
    union all
    select v.place, f.task, f.state, f.result, null
    from unnest(p.value_of[p.start + 1 : p.reached]) with ordinality as u(id, n)
    cross join lateral (select u.id, p.start + u.n as place) as v
    cross join lateral (
        select f.task::text, f.state, f.result from {s}.job_finished f
        where f.id = v.id and f.finished_at >= p.since) as f
) as n on true
where p.start is not null order by n.place"""
# Count the members whose results the pages of an argument are, where its group has succeeded: whoever has read fewer
# misses some. By dependency_child, gate_workflow and workflow_root, once a loop over the pages.
RESULTS_MEMBERS: LiteralString = fill(
    """
with t as materialized (
    select w.root_id, sum(g.members) as members, array_agg(g.id) as gates
    from {s}.dependency d cross join lateral (
        select w.root_id, w.state, w.value_of from {s}.workflow w where w.id = d.parent_id limit 1) as w
    cross join lateral (select g.id, g.members from {s}.gate g where g.workflow_id = any(array[d.parent_id])) as g
    where d.child_id = any(array[%(job)s::bigint]) and d.argument = %(argument)s::text
    and w.state = 'succeeded' and w.value_of is null group by w.root_id
)
select t.members::bigint - {within} from t""",
    within=_WITHIN,
)
WINDOW = 2000  # places of which one page is


class InputQueries(Statements):
    """Reading the inputs of claimed jobs."""

    def inputs(self, jobs: Sequence[ClaimedJob], later: Sequence[str] = ()) -> Query[dict[int, str]]:
        """Read the inputs of jobs as JSON, by their ids; those whose lease is lost are missing. An argument in
        `later`, `id name`, that is a group has none and says so: `results_page` reads them."""
        params = {"ids": packed([job.id for job in jobs]), "leases": packed([job.lease for job in jobs]),
                  "later": list(later)}  # fmt: skip
        return Query(self._sql(INPUTS), _by_job, params)

    def results_page(self, job: int, argument: str, after: int, window: int = WINDOW) -> Query[ResultPage | None]:
        """Read the next results of an argument of a job that one group feeds, behind a place; None at the end."""
        params = {"job": job, "argument": argument, "after": after, "window": window}
        return Query(self._sql(RESULTS_PAGE), _page, params)

    def results_members(self, job: int, argument: str) -> Query[int | None]:
        """Count the results that all pages of an argument have; None where the group has not succeeded."""
        return Query(self._sql(RESULTS_MEMBERS), first_value, {"job": job, "argument": argument})


def _page(rows: Sequence[Row]) -> ResultPage | None:
    found = [_item(*row[2:]) for row in rows if row[1] is not None]
    return ResultPage(rows[0][0], found) if rows else None


def _item(when: str, task: str, state: str, result: str | None, error: str | None) -> dict[str, Any]:
    return {
        "when": when,
        "task": task,
        "state": state,
        "result": None if result is None else json.loads(result),
        "error": None if error is None else json.loads(error),
    }


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
    """Return one argument: a list where a group or several edges feed it, or an edge with a position; of one that is
    read page by page, that it is."""
    if rows[0][-2]:
        return {"list": True, "items": [], "later": True}
    items = list(_items(rows))
    if gone := sum({row[2]: int(row[-3] or 0) for row in rows}.values()):
        return {"list": True, "items": [], "gone": gone}
    if len(items) == 1 and rows[0][3] is None:
        if isinstance(items[0], list):
            return {"list": True, "items": items[0]}
        return {"list": False, "items": items}
    return {"list": True, "items": items}


def _items(rows: list[Row]) -> Iterator[Any]:
    for _, of_edge in groupby(rows, key=lambda row: row[2]):
        edge = list(of_edge)
        found = [
            _item(when, task, state, result, error)
            for *_, when, _, task, state, result, error, _, _, _ in edge
            if task is not None
        ]
        if edge[0][5]:
            yield found
        else:
            yield found[0] if found else {"when": "s", "task": "", "state": None, "result": None, "error": None}
