"""Ending jobs of workflows that will not run: those that are doomed, and those of workflows that are stopped."""

from typing import LiteralString

from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.parts import CANCEL_WAITING, COMPENSATED, MAY_NOTIFY, SKIP_WAITING
from pgqueue.queries.jobs.ties import DOOMED, FREE, TOLD_AFTER_CANCELS, TiedEnds, read_cancels

# End waiting jobs as cancelled, and move what depends on them. Reads `batch`: id and reason.
# It waits for no job: FREE leaves rows that another transaction has locked, and a job that has a child which somebody
# has locked; both are found again. Gates and workflows are waited for, last, as everywhere.
# The reason is `skipped` of each job that is doomed once it is locked, as gates count it. The naive form asks for that
# when it finds the job: one that is doomed between that and the lock is no cancelled member, and its reason says so.
END_WAITING: LiteralString = fill(
    """{free}, ended as (
    delete from {s}.job_live j using batch b
    where j.id = any(array[b.id]) and b.id in (select id from free)
    and (j.state in ('pending', 'blocked')) is true
    returning j.*, 'cancelled' as target, case when {doomed} then 'skipped' else b.reason end as reason
), {cancel_waiting}""",
    free=fill(FREE, own="batch"),
    doomed=DOOMED,
)

# End up to `at_most` doomed jobs, with those below them that can only be skipped, too: an edge after success or failure
# is not met by a cancelled parent. So a chain of thousands costs a statement for each batch and not for each link; what
# is left over is doomed, and found by job_live_doomed after a crash as well. Children by another kind of edge move.
CASCADE: LiteralString = fill(
    """
with recursive doomed as materialized (
    select j.id from {s}.job_live j
    where j.state = 'blocked' and j.cancel_requested_at is not null order by j.id limit %(at_most)s::int
), below(id) as (
    select id from doomed
    union
    select e.child_id from below cross join lateral (
        select d.child_id from {s}.dependency d
        where d.parent_id = any(array[below.id]) and d.runs_after <> 'e' and d.late is not true) as e
    cross join lateral (
        select j.id from {s}.job_live j where j.id = e.child_id and (j.waits_for = 'jobs') is true limit 1) as j
), batch as materialized (
    select id, 'skipped' as reason from below limit %(at_most)s::int
), {end_waiting}
select id, 'moved', task::text, queue::text, reason from ended{told}
union all select 0, 'notified', null, null, null from waiters_notified""",
    end_waiting=fill(END_WAITING, cancel_waiting=SKIP_WAITING),
    told=TOLD_AFTER_CANCELS,
)

# End up to `at_most` jobs of workflows that are stopped: members that wait; those that are doomed are skipped.
# Of one that is cancelled the running ones are asked to stop. Members of a group within have the gates of the groups in
# it, all of which the root names, and so have those of what stands in for a member. A callback is no member and goes
# on, and so does what stands in for one, which `within` lists with its workflow's id below zero. What a member has done
# that was asleep is undone. A workflow that only waits for running members, or for its seal, is passed over: it may
# stay stopped for hours, and a few of them would keep all later ones from being stopped. By workflow_stopping,
# workflow_root and job_live_workflow.
STOP: LiteralString = fill(
    """
with recursive stopping as materialized (
    select w.id, w.root_id, w.stop_reason, w.stop_running from {s}.workflow w
    where w.state = 'running' and w.stop_reason is not null
    and (%(only)s::bigint is null or w.id = %(only)s::bigint)
    and (select true from {s}.job_live j where j.workflow_id = w.root_id and j.gate_id is not null
         and (j.state <> 'running' or w.stop_running and j.cancel_requested_at is null) limit 1)
    order by w.id limit 100
), within(id, top) as (
    (select id, id from stopping where id <> root_id
     union all
     select w.id, -s.id from stopping s cross join {s}.workflow w
     where w.root_id = any(array[s.id]) and w.root_id <> w.id and w.replaces is not null
     and (select true from {s}.job_live j where j.id = w.replaces and j.gate_id is null limit 1))
    union
    select inner_one.id, within.top from within cross join lateral (
        select w.id from stopping s cross join {s}.workflow w
        where s.id = abs(within.top) and w.root_id = any(array[s.root_id]) and w.root_id <> w.id
        and (w.gate_id = any(array(select g.id from {s}.gate g where g.workflow_id = within.id))
             or w.replaces = any(array(
                 select j.id from {s}.job_live j where j.workflow_id = s.root_id and j.gate_id = any(array(
                     select g.id from {s}.gate g where g.workflow_id = within.id))))) ) as inner_one
), found as materialized (
    select m.id, m.state, s.stop_reason as reason
    from stopping s cross join lateral (
        select j.id, j.state from {s}.job_live j
        where j.workflow_id = s.root_id and j.gate_id is not null
        and (j.state <> 'running' or s.stop_running and j.cancel_requested_at is null)
        and case when s.id = s.root_id
            then j.gate_id not in (select g.id from within w join {s}.gate g on g.workflow_id = w.id
                                   where w.top = -s.id)
            else j.gate_id in (select g.id from within w join {s}.gate g on g.workflow_id = w.id where w.top = s.id) end
        order by j.id limit %(at_most)s::int) as m
    limit %(at_most)s::int
), batch as materialized (
    select id, reason from found where state <> 'running'
), asked as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from found where state = 'running')) order by j.id for update skip locked
), requested as (
    update {s}.job_live j set cancel_requested_at = now()
    where j.id = any(array(select id from asked)) and (j.state = 'running') is true and j.cancel_requested_at is null
    returning j.id
), workers_notified as (
    select count(pg_notify({channel}, '!cancel')) from requested where {may_notify}
), {end_waiting}, {compensated}
select id, 'moved', task::text, queue::text, reason from ended
union all select id, 'moved', null, null, null from requested{told}
union all select 0, 'notified', null, null, null from waiters_notified, workers_notified, compensated""",
    end_waiting=fill(END_WAITING, cancel_waiting=CANCEL_WAITING),
    compensated=COMPENSATED,
    told=TOLD_AFTER_CANCELS,
    may_notify=MAY_NOTIFY,
)


class CascadeQueries(Statements):
    """Ending jobs of workflows that will not run."""

    def cascade(self, at_most: int) -> Query[TiedEnds]:
        """End up to `at_most` doomed jobs as skipped."""
        return Query(self._sql(CASCADE), read_cancels, {"at_most": at_most})

    def stop(self, at_most: int, only: int | None = None) -> Query[TiedEnds]:
        """End up to `at_most` waiting jobs of workflows that are stopped, or of one, and ask running ones of those that
        are cancelled."""
        return Query(self._sql(STOP), read_cancels, {"at_most": at_most, "only": only})
