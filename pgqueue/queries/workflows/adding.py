"""Adding to workflows that run: what stands in for a job, and what a job or a caller adds."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.jobs.job import ClaimedJob
from pgqueue.queries.base import Query, Row, fill, nothing, packed
from pgqueue.queries.jobs.parts import MAY_NOTIFY
from pgqueue.queries.jobs.ties import TELL_LATE, TOLD, TiedEnds, read_ends
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
ENTER: LiteralString = fill(_ENTER, states="j.state = 'running'")
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
    "\nwith " + GRAPH,
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

# Lock a group that is to get new members, until the end of the transaction, so that it cannot end before they are
# there: whoever closes a gate of it waits, and sees them. Nothing is locked of a workflow that is open: it ends when it
# is sealed, and SEAL waits for the lock that those who add share. Returns the group, and which groups it is within.
# What a dead letter does there, as bits: where a group around it holds, it holds as well. By primary keys.
_LOCK_GROUP: LiteralString = """
with recursive held as materialized (
    select w.id, w.root_id, w.state, w.sealed, w.on_failure, w.gate_id, w.replaces from {s}.workflow w
    where w.id = %(id)s::bigint{lock}
), around(id, on_failure, gate_id, replaces) as (
    select id, on_failure, gate_id, replaces from held
    union all
    select o.id, o.on_failure, o.gate_id, o.replaces from around a cross join lateral (
        select w.id, w.on_failure, w.gate_id, w.replaces from {s}.gate g join {s}.workflow w on w.id = g.workflow_id
        where g.id = coalesce(a.gate_id, (select j.gate_id from {s}.job_live j where j.id = a.replaces))
    ) as o
)
select h.id, h.root_id, h.state, h.sealed, case when (select bool_or(a.on_failure = 'hold') from around a) then 16
       when h.on_failure = 'stop' then 32 else 0 end, (select array_agg(a.id) from around a)
from held h"""
LOCK_GROUP: LiteralString = fill(_LOCK_GROUP, lock=" for no key update")
LOOK_AT_GROUP: LiteralString = fill(_LOCK_GROUP, lock="")

# Share the lock of an open workflow among those who add to it, until the end of the transaction.
SHARE_OPEN: LiteralString = """
select pg_advisory_xact_lock_shared(hashtext({channel}), hashtext('open ' || %(id)s::text))"""

# Look at what new members of a group are to wait for: jobs and groups of its workflow. Returns those that are none, and
# whether any of the others waits for the group, or for one around it: they would wait for each other. Goes from job to
# parent and from group to member, as far as they have not ended. By primary keys, dependency_child, gate_workflow and
# job_live_workflow. The naive form, that parents must have lower ids, refuses nothing here: what follows a group is
# older than its new members.
CHECK_PARENTS: LiteralString = """
with recursive given as materialized (
    select distinct g.id from unnest((select %(ids)s::bigint[])) as g(id)
), known as materialized (
    select g.id from given g cross join lateral (
        select j.id from {s}.job_live j where j.id = g.id and j.workflow_id = %(root)s::bigint
        union all
        select f.id from {s}.job_finished f where f.id = g.id and f.workflow_id = %(root)s::bigint
        union all
        select d.id from {s}.dead_letter d where d.id = g.id and d.workflow_id = %(root)s::bigint
        union all
        select w.id from {s}.workflow w where w.id = g.id and w.root_id = %(root)s::bigint) as k
), before(id) as (
    select id from known
    union
    select e.id from before b cross join lateral (
        select d.parent_id as id from {s}.dependency d where d.child_id = b.id
        union all
        select w.id from {s}.gate g join {s}.workflow w on w.gate_id = g.id
        where g.workflow_id = b.id and w.root_id = %(root)s::bigint and w.state = 'running'
        union all
        select j.id from {s}.gate g join {s}.job_live j on j.gate_id = g.id
        where g.workflow_id = b.id and j.workflow_id = %(root)s::bigint and j.waits_for = 'jobs') as e
)
select array(select id from given except select id from known),
       exists (select from before where id = any((select %(around)s::bigint[])::bigint[]))"""

# Insert new members of a group that _LOCK_GROUP or SHARE_OPEN has locked. New gates count them, and the group has so
# many more to close; those of an open workflow are counted when it is sealed, so nothing is locked. An edge from what
# was there before is late: the statement that ends its parent at this moment cannot see it, so none of these tells it,
# and TELL_LATE does instead. The naive form, an edge like any other, is lost where the parent ends between the snapshot
# of its last statement and this commit.
ADD: LiteralString = fill(
    "\nwith " + GRAPH,
    group_id="case when g.ord = 1 then %(into)s::bigint else nextval('{s}.job_id') end",
    root="%(root)s::bigint",
    first_id="coalesce((select min(id) from grouped where ord > 1), (select first_id from nodes))",
    columns="",
    values="",
    new_groups=" where g.ord > 1",
    gate_columns=", counted, jobs",
    gate_values=""", %(counted)s::bool or g.of > 1,
           case when g.ord = 1 and not %(counted)s::bool then %(jobs)s::int else 0 end""",
    late=", late",
    outside="""
                when e.parent <= -1000000000 then (%(outside)s::bigint[])[1 - e.parent - 1000000000]""",
    is_late=", case when e.parent <= -1000000000 then true end",
    more=""", raised as (
    update {s}.workflow w
    set open_gates = w.open_gates + (select count(*) from gated g where g.of = 1)::int, jobs = w.jobs + %(jobs)s::int
    where w.id = %(into)s::bigint and %(counted)s::bool
)""",
)

# Tell up to `at_most` late edges whose parent has ended what became of it; a child that does not wait any more needs no
# telling, and a dead letter that was discarded has failed. Each edge is told once: it is locked first, and is late no
# more afterwards; so it does not matter whether the parent has ended before the edge was committed, after it, or while
# that was going on. SKIP LOCKED: any number of workers may do this at once. Edges are locked before jobs, and by nobody
# else.
# By dependency_late, which holds only such edges; parents by primary keys, in the partitions since the day before their
# workflow was made. The arrays of one keep the planner from hashing all edges.
_LATE: LiteralString = fill(
    """
with due as materialized (
    select d.parent_id, d.child_id, d.ord, d.runs_after, p.target
    from {s}.dependency d
    left join lateral (
        select e.target from (
            select w.state as target from {s}.workflow w where w.id = d.parent_id and w.state <> 'running'
            union all
            select case when f.state = 'cancelled' and f.ties::int & 16 > 0 and exists (
                       select from {s}.transition t
                       where t.job_id = f.id and t.from_state = 'failed' and t.to_state = 'cancelled')
                       then 'failed' else f.state end
            from {s}.workflow r join {s}.job_finished f
                on f.id = d.parent_id and f.finished_at >= r.created_at - interval '1 day'
            where r.id = d.workflow_id
            union all
            select 'failed' from {s}.dead_letter x
            where x.id = d.parent_id and (x.ties is null or x.ties::int & 16 = 0)) as e
        where (select true from {s}.job_live j where j.id = d.parent_id limit 1) is null
        limit 1) as p on true
    where d.late and {which}
    and (p.target is not null or (
        select true from {s}.job_live j where j.id = d.child_id and j.waits_for = 'jobs' limit 1) is null)
    limit %(at_most)s::int for update of d skip locked
), told_now as (
    update {s}.dependency d set late = null from due u
    where d.parent_id = any(array[u.parent_id]) and d.child_id = any(array[u.child_id]) and d.ord = any(array[u.ord])
    returning d.child_id
), {tell_late}
select child_id as id, 'moved' from told_now{told}""",
    tell_late=fill(TELL_LATE, may_notify=MAY_NOTIFY),
    told=TOLD,
)
LATE: LiteralString = fill(_LATE, which="true")
LATE_OF: LiteralString = fill(_LATE, which="d.child_id = any((select %(children)s::bigint[])::bigint[])")

# Mark the living parents of late edges, so that the statement that ends one says that late edges are to be told, and
# nobody has to look for that. A hint: LATE finds them all the same. Rows that somebody has locked are left.
_MARK_LATE: LiteralString = """
with parent as materialized (
    select j.id from {s}.job_live j where j.id = any({which})
    and coalesce(j.ties::int, 0) & 8 = 0 order by j.id for update skip locked
)
update {s}.job_live j set ties = coalesce(j.ties::int, 0) | 8 from parent p where j.id = any(array[p.id])"""
MARK_LATE: LiteralString = fill(
    _MARK_LATE, which="array(select d.parent_id from {s}.dependency d where d.late limit %(at_most)s::int)"
)
MARK_LATE_OF: LiteralString = fill(_MARK_LATE, which="(select %(ids)s::bigint[])::bigint[]")

# Seal an open workflow: nobody adds to it any more, and it ends with its last member, perhaps now. Its gates that were
# not counted yet are counted here. Two statements in one transaction: the first waits for those who add, and the second
# sees what they have added. Gates are locked in the order of ids, then the workflow, as where jobs end; an end that
# waits for a gate finds that it is counted.
CLOSE_OPEN: LiteralString = """
select pg_advisory_xact_lock(hashtext({channel}), hashtext('open ' || %(id)s::text))"""
SEAL: LiteralString = """
with added as materialized (
    select g.id, g.remaining, g.failed, g.cancelled, g.jobs from {s}.gate g
    where g.workflow_id = %(id)s::bigint and not g.counted order by g.id for update
), counted as (
    update {s}.gate g set counted = true from added a where g.id = any(array[a.id]) returning g.id
), total as materialized (
    select (count(*) filter (where remaining > 0))::int as gates, coalesce(sum(jobs), 0::bigint)::int as jobs,
           coalesce(sum(failed) filter (where remaining = 0), 0::bigint)::int as failed,
           coalesce(sum(cancelled) filter (where remaining = 0), 0::bigint)::int as cancelled from added
)
update {s}.workflow w
set sealed = true, jobs = w.jobs + t.jobs, open_gates = w.open_gates - 1 + t.gates, failed = w.failed + t.failed,
    cancelled = w.cancelled + t.cancelled,
    state = case when w.open_gates - 1 + t.gates > 0 then w.state when w.failed + t.failed > 0 then 'failed'
                 when w.cancelled + t.cancelled > 0 then 'cancelled' else 'succeeded' end,
    ended_at = case when w.open_gates - 1 + t.gates = 0 then clock_timestamp() end
from total t where w.id = %(id)s::bigint and not w.sealed returning w.id"""


class LockedGroup(NamedTuple):
    """A group that is to get new members: what a dead letter does there, as bits, and the groups that it is within,
    itself among them."""

    id: int
    root_id: int
    state: str
    sealed: bool
    ties: int
    around: list[int]


class Entered(NamedTuple):
    """A job that adds to its workflow: the workflow, the group of which the job is a member, None for a callback, and
    what its own end tells, as bits."""

    workflow: int
    group: int | None
    ties: int


class AddingQueries(EnqueueGraphQueries):
    """Adding to workflows that run."""

    def enter(self, job: ClaimedJob) -> Query[Entered | None]:
        """Lock a job that runs and adds to its workflow; None if its lease is lost."""
        return Query(self._sql(ENTER), _entered, {"id": job.id, "lease": job.lease})

    def look_at_group(self, group: int) -> Query[LockedGroup | None]:
        """Look at a group that is to get new members; None if there is none with this id."""
        return Query(self._sql(LOOK_AT_GROUP), _locked_group, {"id": group})

    def lock_group(self, group: int) -> Query[LockedGroup | None]:
        """Lock a group that is to get new members; None if there is none with this id."""
        return Query(self._sql(LOCK_GROUP), _locked_group, {"id": group})

    def share_open(self, workflow: int) -> Query[None]:
        """Keep an open workflow from being sealed until the end of the transaction."""
        return Query(self._sql(SHARE_OPEN), nothing, {"id": workflow})

    def check_parents(self, into: LockedGroup, ids: Sequence[int]) -> Query[tuple[list[int], bool]]:
        """Look at what new members of a group are to wait for: returns the ids that are nothing of its workflow, and
        whether anything there waits for the group."""
        params = {"ids": packed(ids), "root": into.root_id, "around": packed(into.around)}
        return Query(self._sql(CHECK_PARENTS), lambda rows: (rows[0][0], rows[0][1]), params)

    def add(self, into: LockedGroup, graph: Graph) -> Query[InsertedWorkflow]:
        """Insert new members of a group: a graph that `check` has found sound, whose first group is that one."""
        order = parents_first(graph)
        if order is not None:
            graph = reordered(graph, order)
        params = self._parameters(graph) | {
            "root": into.root_id,
            "into": into.id,
            "counted": into.sealed,
            "outside": packed(graph.outside),
        }
        return Query(self._sql(ADD), lambda rows: inserted(rows[0], order), params)

    def tell_late(self, at_most: int, children: Sequence[int] | None = None) -> Query[TiedEnds]:
        """Tell up to `at_most` late edges, or those of some children, that their parents have ended; `moved` are the
        children."""
        if children is None:
            return Query(self._sql(LATE), read_ends, {"at_most": at_most})
        return Query(self._sql(LATE_OF), read_ends, {"at_most": at_most, "children": packed(children)})

    def mark_late(self, at_most: int) -> Query[None]:
        """Mark up to `at_most` living parents of late edges."""
        return Query(self._sql(MARK_LATE), nothing, {"at_most": at_most})

    def mark_late_of(self, parents: Sequence[int]) -> Query[None]:
        """Mark those of some jobs that live as parents of late edges."""
        return Query(self._sql(MARK_LATE_OF), nothing, {"ids": packed(parents)})

    def close_open(self, workflow: int) -> Query[None]:
        """Wait until nobody adds to an open workflow, and let nobody until the end of the transaction."""
        return Query(self._sql(CLOSE_OPEN), nothing, {"id": workflow})

    def seal(self, workflow: int) -> Query[bool]:
        """Seal an open workflow, after `close_open`; returns whether it was open."""
        return Query(self._sql(SEAL), bool, {"id": workflow})

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


def _locked_group(rows: Sequence[Row]) -> LockedGroup | None:
    return LockedGroup(*rows[0]) if rows else None
