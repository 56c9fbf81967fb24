"""Settling workflows and groups that have ended: those that wait for their end are moved."""

from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.parts import MAY_NOTIFY
from pgqueue.queries.jobs.ties import EDGES, TELL, TOLD, TiedEnds, read_ends

# Settle up to `at_most` workflows and groups that have ended: callbacks become pending or are doomed, as the children
# of a job do, and the gate above counts the group. A group that was stopped or failed ends its parent's when that
# stops. SKIP LOCKED: any number of workers may do this at once, and each group is settled once, because it stops being
# unsettled in the same statement. So nested groups cost a statement a level, and none in the path of a job. A group
# with a child that somebody has locked is left for the next time: who cancels a workflow in a long transaction holds
# gates when this runs, and who holds the child may wait for one of them. By workflow_unsettled, by which a crash leaves
# nothing unseen.
SETTLE: LiteralString = fill(
    """
with ended as materialized (
    select w.id, w.state, w.gate_id from {s}.workflow w
    where w.state <> 'running' and not w.settled and (%(only)s::bigint is null or w.root_id = %(only)s::bigint)
    order by w.id limit %(at_most)s::int for no key update skip locked
), {edges}, held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select child_id from edge)) order by j.id for update skip locked
), elsewhere as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select child_id from edge except select id from held)) and (j.waits_for = 'jobs') is true
), batch as materialized (
    select * from ended
    where id not in (select e.parent_id from edge e where e.child_id in (select id from elsewhere))
), settled as (
    update {s}.workflow w set settled = true from batch b where w.id = any(array[b.id]) returning w.id
), tied as materialized (
    select b.id, b.state as target, 1 + case when b.gate_id is null then 0 else 2 end
           + case when above.on_failure = 'stop' then 32 else 0 end as ties, b.gate_id, false as skipped
    from batch b left join lateral (
        select w.on_failure from {s}.gate g join {s}.workflow w on w.id = any(array[g.workflow_id])
        where g.id = b.gate_id limit 1) as above on true
), {tell}
select id, 'moved' from settled{told}""",
    edges=fill(EDGES, own="ended"),
    tell=fill(TELL, gone="batch", held="held", written="", may_notify=MAY_NOTIFY),
    told=TOLD,
)

# Look whether there is anything for STOP, CASCADE and SETTLE to do, whether any workflow lives, and whether any edge is
# late. The first entry of five partial indexes, which hold only such rows.
LOOK: LiteralString = """
select (select true from {s}.workflow w where w.state = 'running' and w.stop_reason is not null limit 1) is not null,
       (select true from {s}.job_live j where j.state = 'blocked' and j.cancel_requested_at is not null limit 1)
           is not null,
       (select true from {s}.workflow w where w.state <> 'running' and not w.settled limit 1) is not null,
       (select true from {s}.workflow w where not w.settled limit 1) is not null,
       (select true from {s}.dependency d where d.late limit 1) is not null"""


class Look(NamedTuple):
    """What there is to do about workflows, and whether any lives."""

    stopping: bool
    doomed: bool
    unsettled: bool
    living: bool
    late: bool


class SettleQueries(Statements):
    """Settling workflows that have ended."""

    def look(self) -> Query[Look]:
        """Look what there is to do."""
        return Query(self._sql(LOOK), lambda rows: Look(*rows[0]), {})

    def settle(self, at_most: int, only: int | None = None) -> Query[TiedEnds]:
        """Settle up to `at_most` workflows and groups that have ended, or those of one; `moved` are their ids."""
        return Query(self._sql(SETTLE), read_ends, {"at_most": at_most, "only": only})
