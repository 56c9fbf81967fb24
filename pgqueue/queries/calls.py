"""Calls of steps: jobs that a running job has called and whose ends it waits for.

The end of a called job marks its call, in the statement that ends it (TELL). DELIVER takes what is marked, and wakes
the caller when no call of the step is open any more: of two that end at once, whoever is delivered last sees both. Then
the caller collects how its calls have ended (COLLECT), which is recorded.
"""

from collections.abc import Sequence
from typing import LiteralString, TypeAlias

from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.step import NewStep, RecordedStep
from pgqueue.queries.base import Query, Statements, fill, lines, packed, sparse
from pgqueue.queries.jobs.parts import CANCEL_WAITING, COMPENSATED, MAY_NOTIFY
from pgqueue.queries.jobs.ties import TOLD, TiedEnds, read_ends
from pgqueue.queries.jobs.turns import AFTER_TOLD, GIVEN_BACK, METERED
from pgqueue.queries.steps import HELD, STEP, in_order, read_step
from pgqueue.queries.workflows.cascade import END_WAITING

# Record a step that calls jobs, as the last statement of the transaction that has inserted them: they exist if and only
# if the step has recorded them. The caller holds the row of its job until the commit, so nobody takes its lease. A step
# that is recorded already comes back as it is, not fresh: the transaction rolls back, and nothing is called twice. The
# called jobs get a tie, by which the statement that ends one marks its call; they are new, so nobody else sees them.
# The job gets the header `$undo`, by which all statements that end it know that calls may have to be called off; and
# its next failure is the first one again. Returns nothing if the lease is lost. By primary keys.
RECORD: LiteralString = fill(
    """
with held as materialized (
    select j.id, j.lease from {s}.job_live j
    where j.id = %(id)s::bigint and j.state = 'running' and j.lease = %(lease)s::bigint for update
), written as (
    insert into {s}.step (job_id, name, kind, done, value, attempt, lease, version, at)
    select held.id, %(name)s::text, 'call', false, %(value)s::jsonb, %(attempt)s::int, held.lease, %(version)s::int,
           clock_timestamp() from held
    on conflict (job_id, name) do nothing returning *
), called as (
    insert into {s}.call (child_id, job_id, step, number, place)
    select g.id, t.job_id, t.name, t.number, g.place
    from written t cross join unnest((select %(children)s::bigint[]),
                                     (select string_to_array(%(places)s, ',', '')::int[])) as g(id, place)
), tied as (
    update {s}.job_live j set ties = (coalesce(j.ties::int, 0) | 4)::smallint
    where j.id = any((select %(children)s::bigint[])::bigint[]) and (select count(*) from written) > 0
), marked as (
    update {s}.job_live j
    set attempt = 1, expires_at = null, headers = j.headers::jsonb || '{{"$undo": true}}'::jsonb
    from held where j.id = any(array[held.id]) and (j.attempt > 1 or not j.headers::jsonb ? '$undo'::text)
)
select {step}, true from written t
union all
select {step}, false from held
cross join lateral (select * from {s}.step where job_id = held.id and name = %(name)s::text limit 1) as t""",
    step=STEP,
)

# Let steps that have called jobs take how those have ended, once none of them lives: its state, its result or error and
# why it ended, in the order of the calls. That is recorded under the lease and stays, whatever retention drops and
# whoever brings a called job back. A call whose job is nowhere any more has no state. Each step comes back as it is
# then; nothing for a job that has lost its lease. It reads job_live and the history in one snapshot, in which a job is
# in one of them. By primary keys and call_step; the history in the partitions since the day before the calls.
COLLECT: LiteralString = fill(
    r"""
with given as materialized (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select string_to_array(%(names)s, E'\n'))
    ) with ordinality as g(job_id, lease, name, ord)
), {held}, asking as materialized (
    select g.ord, t.* from given g join held on held.id = g.job_id
    cross join lateral (select * from {s}.step where job_id = g.job_id and name = g.name limit 1) as t
), child as materialized (
    select a.ord, c.child_id, c.place, p.* from asking a
    cross join lateral (select c.child_id, c.place from {s}.call c where c.number = a.number) as c
    left join lateral (
        select j.task::text, 'live' as state, null as reason, null::jsonb as result, null::jsonb as error
        from {s}.job_live j where j.id = c.child_id
        union all
        select f.task::text, f.state, f.reason, f.result, null from {s}.job_finished f
        where f.id = c.child_id and f.finished_at >= a.at - interval '1 day'
        union all
        select d.task::text, 'failed', d.reason, null, d.error from {s}.dead_letter d where d.id = c.child_id
        limit 1) as p on true
    where a.kind = 'call' and not a.done
), ended as materialized (
    select ch.ord, jsonb_agg(jsonb_build_object('id', ch.child_id, 'task', ch.task, 'state', ch.state, 'reason',
                                                ch.reason, 'result', ch.result, 'error', ch.error)
                             order by ch.place, ch.child_id) as items
    from child ch where ch.place is not null or ch.state is distinct from 'succeeded' group by ch.ord
), written as (
    update {s}.step t
    set done = true, value = jsonb_build_object('shape', a.value, 'items', coalesce(e.items, '[]'))
    from asking a left join ended e on e.ord = a.ord
    where t.job_id = any(array[a.job_id]) and t.name = a.name and t.kind = 'call' and not t.done
    and a.ord not in (select ord from child where state = 'live')
    returning a.ord, t.*
)
select t.ord, {step} from written t
union all
select t.ord, {step} from asking t where t.ord not in (select ord from written)""",
    held=HELD,
    step=STEP,
)

# End up to `at_most` called jobs whose caller has ended otherwise than by success: those that wait, in the way of
# STOP; running ones are asked to stop, and those of a workflow are left to STOP, which their workflow is told. Places
# that they have kept while they waited are given back. A letter stays until its job is ended or asked, so that a job
# which somebody has locked is tried again. Any number of workers may do this. By primary keys.
CALL_OFF: LiteralString = fill(
    """
with letter as materialized (
    select u.child_id as id from {s}.unwanted_call u order by u.child_id limit %(at_most)s::int for update skip locked
), found as materialized (
    select j.* from letter cross join lateral (
        select j.id, j.state, j.workflow_id, j.cancel_requested_at from {s}.job_live j where j.id = letter.id limit 1
    ) as j
), batch as materialized (
    select id, 'its caller has ended' as reason from found where state <> 'running' and workflow_id is null
), asked as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from found where state = 'running' and workflow_id is null))
    order by j.id for update skip locked
), requested as (
    update {s}.job_live j set cancel_requested_at = coalesce(j.cancel_requested_at::timestamptz, now())
    where j.id = any(array(select id from asked)) and (j.state = 'running') is true
    returning j.id
), workers_notified as (
    select count(pg_notify({channel}, '!cancel')) from requested where {may_notify}
), stopped as (
    update {s}.workflow w set stop_reason = 'its caller has ended', stop_running = true
    where w.id = any(array(select distinct workflow_id from found)) and w.state = 'running' and w.stop_reason is null
    returning w.id
), {end_waiting}, {compensated}, {given_back}, done as (
    delete from {s}.unwanted_call u using letter l
    where u.child_id = any(array[l.id])
    and (l.id not in (select id from found) or l.id in (select id from ended) or l.id in (select id from requested)
         or l.id in (select id from found where workflow_id is not null))
    returning u.child_id
)
select child_id as id, 'moved' from done union all select id, 'unsettled' from stopped{told}
union all select 0, 'notified' from waiters_notified, workers_notified, compensated, given_back""",
    end_waiting=fill(END_WAITING, cancel_waiting=CANCEL_WAITING),
    compensated=COMPENSATED,
    given_back=fill(GIVEN_BACK, moved="ended", metered=METERED, after=AFTER_TOLD),
    told=TOLD,
    may_notify=MAY_NOTIFY,
)

Asked: TypeAlias = tuple[ClaimedJob, str]  # a job, and the name of the step that has called


class CallQueries(Statements):
    """Calls of steps."""

    def record(self, job: ClaimedJob, step: NewStep, children: Sequence[int],
               places: Sequence[int | None]) -> Query[RecordedStep | None]:  # fmt: skip
        """Record a step and the jobs that it has called; None if the lease of its job is lost."""
        params = {
            "id": job.id, "lease": job.lease, "attempt": job.attempt, "name": step.name, "value": step.value,
            "version": step.version, "children": packed(children), "places": sparse(places),
        }  # fmt: skip
        return Query(self._sql(RECORD), lambda rows: read_step(rows[0]) if rows else None, params)

    def collect(self, calls: Sequence[Asked]) -> Query[list[RecordedStep | None]]:
        """Let steps take how their calls have ended; returns each as it is then, None where the lease is lost."""
        params = {
            "ids": packed(job.id for job, _ in calls),
            "leases": packed(job.lease for job, _ in calls),
            "names": lines(name for _, name in calls),
        }
        return Query(self._sql(COLLECT), lambda rows: in_order(rows, len(calls)), params)

    def call_off(self, at_most: int) -> Query[TiedEnds]:
        """End called jobs whose caller has ended otherwise than by success."""
        return Query(self._sql(CALL_OFF), read_ends, {"at_most": at_most})
