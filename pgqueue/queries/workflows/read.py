"""Reading workflows: how they stand, their jobs, and the edges between them."""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from pgqueue.error_info import ErrorInfo
from pgqueue.queries.base import Query, Row, Statements, fill
from pgqueue.queries.filters import as_pattern

_STATUS: LiteralString = """select w.id, w.name, w.state, w.on_failure, w.created_at, w.ended_at, w.jobs, w.waiting,
       w.running, w.failed, w.ended, w.stop_reason, w.sealed from {s}.workflows w"""

# Read how a workflow stands. By primary key; live jobs and dead letters by the indexes of their workflow, up to a
# bound.
GET: LiteralString = fill("{status} where w.id = %(id)s::bigint", status=_STATUS)

# List the newest workflows, walking backwards along the primary key; groups within others are passed over. The bound of
# how many rows are looked at stands beneath the conditions: beside them, a name that no workflow has reads all.
LIST: LiteralString = fill(
    """{status}
where w.id = any(array(
    select n.id from (
        select o.id, o.root_id, o.state, o.name from {s}.workflow o
        where %(before)s::bigint is null or o.id < %(before)s::bigint order by o.id desc limit %(looked)s::int) as n
    where n.id = n.root_id and (%(state)s::text is null or n.state = %(state)s::text)
    and (%(name)s::text is null or n.name like %(name)s::text)
    order by n.id desc limit %(limit)s::int))
order by w.id desc""",
    status=_STATUS,
)

# Whether a workflow has ended, for those that wait for it; its root. By primary key.
STATE: LiteralString = "select w.state, w.root_id from {s}.workflow w where w.id = %(id)s::bigint"

# Of which workflow a job is, for whoever gives the id of a job for that of a workflow. By primary key, in whichever
# table holds it. Only for the words of an error.
OF_JOB: LiteralString = "select j.workflow_id from {s}.job j where j.id = %(id)s::bigint"

# The jobs of a workflow wherever they are, in order of ids. By the ranges of ids that its gates name.
JOBS: LiteralString = """
with span as materialized (
    select distinct g.first_id, g.last_id, w.created_at
    from {s}.workflow w join {s}.gate g on g.workflow_id = w.id
    where w.id = %(id)s::bigint or w.root_id = %(id)s::bigint and w.root_id <> w.id
), node as (
    select j.id, j.task::text, j.state, j.waits_for, j.waits_on, null::text as reason, j.gate_id
    from {s}.job_live j where j.workflow_id = %(id)s::bigint
    union all
    select d.id, d.task::text, 'failed', null, null, d.reason, d.gate_id
    from {s}.dead_letter d where d.workflow_id = %(id)s::bigint
    union all
    select f.* from span cross join lateral (
        select f.id, f.task::text, f.state, null, null::int, f.reason, f.gate_id from {s}.job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.finished_at >= span.created_at - interval '1 day') as f
)
select n.id, n.task, n.state, n.waits_for, n.waits_on, n.reason, g.workflow_id
from node n left join lateral (select g.workflow_id from {s}.gate g where g.id = n.gate_id limit 1) as g on true
order by n.id limit %(limit)s::int"""

# The errors of the dead letters of a workflow, the first ones: the class, and the first line of the message. By the
# index of its dead letters, in the order of ids. A statement of its own: errors lie in TOAST, and most who read the
# jobs of a workflow want none.
ERRORS: LiteralString = """
select d.id, d.error::jsonb ->> 'type'::text, left(split_part(d.error::jsonb ->> 'message'::text, E'\\n', 1), 200)
from {s}.dead_letter d where d.workflow_id = %(id)s::bigint and d.error is not null
order by d.workflow_id, d.id limit %(limit)s::int"""

# The edges of a workflow. By the primary key, in the ranges of ids that its gates name.
EDGES: LiteralString = """
with span as materialized (
    select distinct g.first_id, g.last_id
    from {s}.workflow w join {s}.gate g on g.workflow_id = w.id
    where w.id = %(id)s::bigint or w.root_id = %(id)s::bigint and w.root_id <> w.id
)
select e.parent_id, e.child_id, e.runs_after, e.argument, e.position
from span cross join lateral (
    select * from {s}.dependency d
    where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = %(id)s::bigint) as e
order by e.parent_id, e.child_id, e.ord limit %(limit)s::int"""

# The groups of a workflow, itself first, each with the group that it is a member of. One that stands in for a job is a
# member of none: it stands where the job stands, so `parent` is the group of that job, wherever its row is. By the
# primary key, and by workflow_root; that job by primary keys, in the partitions since the day before its workflow.
GROUPS: LiteralString = """
select w.id, w.name, g.workflow_id, w.on_failure, w.replaces
from (select w.id, w.name, w.gate_id, w.on_failure, w.replaces, w.created_at from {s}.workflow w
      where w.id = %(id)s::bigint
      union all
      select w.id, w.name, w.gate_id, w.on_failure, w.replaces, o.created_at
      from {s}.workflow o cross join lateral (
          select w.* from {s}.workflow w where w.root_id = o.id and w.root_id <> w.id) as w
      where o.id = %(id)s::bigint) as w
left join lateral (
    select j.gate_id from {s}.job_live j where j.id = w.replaces
    union all
    select d.gate_id from {s}.dead_letter d where d.id = w.replaces
    union all
    select f.gate_id from {s}.job_finished f
    where f.id = w.replaces and f.finished_at >= w.created_at - interval '1 day'
    limit 1) as r on true
left join lateral (
    select g.workflow_id from {s}.gate g where g.id = coalesce(w.gate_id, r.gate_id) limit 1) as g on true
order by w.id limit %(limit)s::int"""


MOST_LOOKED = 200_000  # workflows and groups of which a list takes those that fit


@dataclass(frozen=True, slots=True)
class WorkflowStatus:
    """How a workflow stands: `jobs` counts all, of which some wait, run, or have ended; `failed`: dead letters now.
    One that is not `sealed` is open: it does not end before it is."""

    id: int
    name: str
    state: str
    on_failure: str
    created_at: datetime
    ended_at: datetime | None
    jobs: int
    waiting: int
    running: int
    failed: int
    ended: int
    stop_reason: str | None
    sealed: bool = True


@dataclass(frozen=True, slots=True)
class WorkflowJob:
    """A job of a workflow: its state, what it waits for and for how many edges, why it ended, and its group."""

    id: int
    task: str
    state: str
    waits_for: str | None
    waits_on: int | None
    reason: str | None
    group: int | None


@dataclass(frozen=True, slots=True)
class WorkflowGroup:
    """A group of a workflow, and the one that it is a member of; None for the workflow itself. `replaces`: the job in
    whose place it runs, whose group is its `parent` then."""

    id: int
    name: str
    parent: int | None
    on_failure: str
    replaces: int | None = None


@dataclass(frozen=True, slots=True)
class WorkflowEdge:
    """`child` runs after `parent`, a job or a group, as in pgqueue.workflows.graph.Edge."""

    parent: int
    child: int
    when: str
    argument: str | None
    position: int | None


class ReadWorkflowQueries(Statements):
    """Reading workflows."""

    def get(self, workflow: int) -> Query[WorkflowStatus | None]:
        """Read how a workflow stands; None if there is none with this id."""
        return Query(self._sql(GET), lambda rows: _all(rows)[0] if rows else None, {"id": workflow})

    def list(
        self, state: str | None, before: int | None, limit: int, name: str | None = None
    ) -> Query[builtins.list[WorkflowStatus]]:
        """List the newest workflows that are in a state and have a name, with `*` for any characters."""
        params = {"state": state, "before": before, "limit": limit, "looked": MOST_LOOKED}
        return Query(self._sql(LIST), _all, params | {"name": None if name is None else as_pattern(name)})

    def state(self, workflow: int) -> Query[tuple[str, int] | None]:
        """Read the state of a workflow or group, and the id of the whole workflow; None if there is none."""
        return Query(self._sql(STATE), lambda rows: (rows[0][0], rows[0][1]) if rows else None, {"id": workflow})

    def of_job(self, job: int) -> Query[tuple[int | None] | None]:
        """Read of which workflow a job is, None if it is of none; None if there is no such job."""
        return Query(self._sql(OF_JOB), lambda rows: (rows[0][0],) if rows else None, {"id": job})

    def jobs(self, workflow: int, limit: int) -> Query[builtins.list[WorkflowJob]]:
        """Read the jobs of a workflow, in order of ids."""
        return Query(
            self._sql(JOBS), lambda rows: [WorkflowJob(*row) for row in rows], {"id": workflow, "limit": limit}
        )

    def errors(self, workflow: int, limit: int) -> Query[dict[int, ErrorInfo]]:
        """Read the errors of the dead letters of a workflow, each with the first line of its message."""
        return Query(
            self._sql(ERRORS),
            lambda rows: {row[0]: ErrorInfo(row[1], row[2] or "") for row in rows},
            {"id": workflow, "limit": limit},
        )

    def groups(self, workflow: int, limit: int) -> Query[builtins.list[WorkflowGroup]]:
        """Read the groups of a workflow, itself first."""
        return Query(
            self._sql(GROUPS), lambda rows: [WorkflowGroup(*row) for row in rows], {"id": workflow, "limit": limit}
        )

    def edges(self, workflow: int, limit: int) -> Query[builtins.list[WorkflowEdge]]:
        """Read the edges of a workflow."""
        return Query(
            self._sql(EDGES), lambda rows: [WorkflowEdge(*row) for row in rows], {"id": workflow, "limit": limit}
        )


def _all(rows: Sequence[Row]) -> list[WorkflowStatus]:
    return [WorkflowStatus(*row) for row in rows]
