"""Pruning workflows: their rows go when retention keeps none of their jobs any more."""

from typing import LiteralString

from pgqueue.queries.base import Query, Statements

# Delete up to `at_most` workflows that ended longer ago than finished jobs are kept, with their groups, gates and
# edges. One of which a job lives or is a dead letter stays: a redrive needs it. SKIP LOCKED leaves one that is being
# retried, and a retry that comes second finds none. By workflow_ended; the others by the ranges of ids that the gates
# name.
PRUNE: LiteralString = """
with keep as (
    select case when bool_and(r.value is not null) then max(r.value) end as age
    from {s}.retention r where r.name in ('succeeded', 'cancelled')
), old as materialized (
    select w.id from {s}.workflow w
    where w.settled and w.root_id = w.id and w.ended_at < now() - (select age from keep)
    and (select true from {s}.job_live j where j.workflow_id = w.id limit 1) is null
    and (select true from {s}.dead_letter d where d.workflow_id = w.id limit 1) is null
    order by w.ended_at limit %(at_most)s::int for update skip locked
), whole as materialized (
    select o.id, o.id as root_id from old o
    union all
    select w.id, w.root_id from {s}.workflow w
    where w.root_id = any(array(select id from old)) and w.root_id <> w.id
), gates as (
    delete from {s}.gate g where g.workflow_id = any(array(select id from whole))
    returning g.workflow_id, g.first_id, g.last_id
), span as materialized (
    select distinct w.root_id, g.first_id, g.last_id from gates g join whole w on w.id = g.workflow_id
), edge as materialized (
    select e.* from span cross join lateral (
        select d.parent_id, d.child_id, d.ord from {s}.dependency d
        where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = span.root_id) as e
), edges as (
    delete from {s}.dependency d using edge e
    where d.parent_id = any(array[e.parent_id]) and d.child_id = e.child_id and d.ord = e.ord
), gone as (
    delete from {s}.workflow w where w.id = any(array(select id from whole))
)
select count(*) from old"""


class PruneWorkflowQueries(Statements):
    """Pruning workflows."""

    def prune(self, at_most: int) -> Query[int]:
        """Delete up to `at_most` workflows that retention keeps no longer; returns how many."""
        return Query(self._sql(PRUNE), lambda rows: int(rows[0][0]), {"at_most": at_most})
