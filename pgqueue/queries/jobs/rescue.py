"""Taking running jobs from workers that are dead, or that do not know that they have claimed them."""

import json
from collections.abc import Mapping, Sequence
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.jobs.job import MAX_CRASHES, JobState
from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.parts import COMPENSATED, FINISH_CANCELLED, LOG_ATTEMPTS, TELL_ENDS
from pgqueue.queries.jobs.ties import FREE
from pgqueue.queries.jobs.turns import AFTER_TOLD, BACK_FOR, BACK_TO, FREE_BUCKETS, STOP_KEYS

# Take the running jobs of workers that were declared lost, or whose row is gone. A job with an attempt left is pending
# again at once. A job without one, or one that has crashed as many workers as its task allows, becomes a dead letter
# whose error names them all. From the second crash on, jobs come back spread over seconds, so that jobs which ran
# beside the one that crashes workers are not beside it each time. A job with a cancel request ends as cancelled.
# The limit of a task that this worker does not know stands in the job's header, which may be any JSON if SQL wrote it.
# Rows that another transaction has locked (a resolve in flight, another rescuer) are skipped, and found next time. A
# metered job waits for its turn again, and what it has taken of its buckets is given back; its crash is a failure.
# What depends on a job that ends moves in this statement, before buckets are locked. A job that is to end and has a
# child that somebody has locked is left for the next time, too.
# A job may name a worker without a row. `orphan` looks for such names between those of the workers that exist: in
# each gap it hops through job_live_running from one name to the next. So it costs a probe a worker, whatever the
# statistics say, and however many jobs run, or have run and are dead entries that a long transaction keeps.
# The naive forms: to join all running rows to their workers, for which an unanalysed table is read whole; to hop
# through the whole index, dead entries too; to delete the worker's row first, which leaves jobs running for ever if the
# process dies in between; to compare leases by an equation, over which PostgreSQL 15 joined the whole of job_live.
RESCUE: LiteralString = fill(
    """
with recursive gap(low, high) as (
    select lag(id, 1, repeat('0', 32)::uuid) over (order by id), id
    from (select id from {s}.worker union all select repeat('f', 32)::uuid) as w
), orphan(id, high) as (
    select low, high from gap union all
    select (select worker_id from {s}.job_live where worker_id > o.id and worker_id < high order by 1 limit 1), high
    from orphan o where id is not null
), dead as materialized (
    select id, format('worker on %%s, pid %%s, %%s', host, pid, coalesce(
    death || ' at '::text || lost_at::text, 'did not beat since '::text || heartbeat_at::text)) as why
    from {s}.worker where lost_at is not null union all
    select id, 'the worker that ran this attempt has no row any more'
    from orphan where id is not null and id not in (select low from gap)
), lost as materialized (
    select found.*, dead.why,
        jsonb_build_object('type', 'pgqueue.WorkerLost', 'message', dead.why) as error
    from dead cross join lateral (
        select j.id, j.lease, j.worker_id, j.attempt >= j.max_attempts
            or j.crash_count >= coalesce((%(limits)s::jsonb ->> j.task::text)::int,
            substring(j.headers::jsonb ->> '$max_crashes'::text, '^[1-9][0-9]{{0,5}}$')::int, %(max_crashes)s) - 1
        as spent
        from {s}.job_live j where j.worker_id = dead.id and j.state = 'running'
        and (%(only)s::bigint is null or j.id = %(only)s)
        limit %(at_most)s for update skip locked
    ) as found limit %(at_most)s
), requeued as (
    update {s}.job_live j
    set state = {back_to}, waits_for = {back_for}, worker_id = null, claimed_at = null,
        crash_count = j.crash_count + 1,
        run_at = now() + interval '1 s' * random()
        * case when j.crash_count > 0 then 2::float8 ^ least(j.crash_count, 6)::float8 else 0 end
    from lost where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = any(array[lost.lease])
    and not lost.spent and j.cancel_requested_at is null
    returning j.id, {back_to} as target, j.attempt, j.lease, lost.error, j.task, j.queue, lost.worker_id, j.headers
), {free}, ended as (
    delete from {s}.job_live j using lost
    where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = any(array[lost.lease])
    and (lost.spent or j.cancel_requested_at is not null) and lost.id in (select id from free)
    returning j.*, lost.error, lost.why, 'cancelled by request' as reason,
        case when j.cancel_requested_at is null then 'failed' else 'cancelled' end as target
), {finish_cancelled}, dead_lettered as (
    insert into {s}.dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
        max_attempts, crash_count, lease, worker_id, claimed_at, ties, gate_id, workflow_id, reason, error)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
        max_attempts, least(crash_count, 1000000) + 1, lease, worker_id, claimed_at, ties, gate_id,
        workflow_id, 'crashed',
        error || jsonb_build_object('message', concat_ws('; ', (
        select string_agg(t.error ->> 'message'::text, '; ' order by t.at) from {s}.transition t
        where t.job_id = ended.id and t.reason = 'rescued'), why))
    from ended where target = 'failed'
), moved as (
    select * from requeued
    union all select id, target, attempt, lease, error, task, queue, worker_id, headers from ended
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, %(worker)s, 'rescued', error from moved
), {tell_ends}, left_running as materialized (
    select headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, null::float8 as seconds,
           case when target <> 'cancelled' then true end as failed, null::text[] as closes, 1::bigint as jobs
    from moved where headers::jsonb ? '$flow'::text and (select count(*) from workflows_told) >= 0
), {free_buckets}, {stop_keys}
select id, target, task, queue, attempt, lease, worker_id, error ->> 'message'::text from moved, children_notified""",
    free=fill(FREE, own="lost"),
    finish_cancelled=FINISH_CANCELLED,
    tell_ends=TELL_ENDS,
    free_buckets=FREE_BUCKETS,
    stop_keys=fill(STOP_KEYS, after=AFTER_TOLD),
    back_to=BACK_TO,
    back_for=BACK_FOR,
)

# Find the jobs that RESCUE would take. Runs when RESCUE fails, to find the row that makes it fail; reads all running
# jobs.
RESCUABLE: LiteralString = """
select j.id from {s}.job_live j where j.worker_id is not null and j.state = 'running'
and not exists (select from {s}.worker w where w.id = j.worker_id and w.lost_at is null)
order by j.id limit %(at_most)s"""

# Give back strays: running jobs of this worker that it does not know of, because a claim was committed and its answer
# was lost with the connection. `held` are the jobs that it has in a slot, or whose outcome is still to be written. The
# worker must not be claiming meanwhile. Reads job_live_running for one worker. As everywhere, a job with a cancel
# request does not go on. The rows are locked first, and the rest goes by what the lock has found, because a cancel
# request may be in flight. They are locked in the order of ids, and not in that of the primary key, which might be read
# from end to end. One that is to end and has a child that somebody has locked stays a stray. What metered jobs have
# taken of their buckets is given back.
RELEASE_STRAYS: LiteralString = fill(
    """
with strays as materialized (
    select id, lease, cancel_requested_at from {s}.job_live
    where worker_id = %(worker)s and state = 'running' and not id = any(%(held)s::bigint[]) order by id + 0 for update
), {free}, requeued as (
    update {s}.job_live j
    set state = {back_to}, waits_for = {back_for}, worker_id = null, claimed_at = null, attempt = j.attempt - 1
    from strays where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = any(array[strays.lease])
    and strays.cancel_requested_at is null
    returning j.id, {back_to} as target, j.attempt + 1 as attempt, j.lease, 'released' as reason, j.headers
), ended as (
    delete from {s}.job_live j using strays
    where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = any(array[strays.lease])
    and strays.cancel_requested_at is not null and strays.id in (select id from free)
    returning j.*, 'cancelled' as target, 'cancelled by request' as reason
), {finish_cancelled}, moved as (
    select id, target, attempt, lease, %(worker)s as worker_id, reason, null::jsonb as error from requeued
    union all
    select id, target, attempt, lease, %(worker)s, reason, null from ended
), {log_attempts}, {tell_ends}, left_running as materialized (
    select l.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, null::float8 as seconds,
           null::bool as failed, null::text[] as closes, 1::bigint as jobs
    from (select headers from requeued union all select headers from ended) as l
    where l.headers::jsonb ? '$flow'::text and (select count(*) from workflows_told) >= 0
), {free_buckets}, {compensated}
select m.id from (select id from requeued union all select id from ended) as m, children_notified, compensated""",
    free=fill(FREE, own="strays"),
    compensated=COMPENSATED,
    finish_cancelled=FINISH_CANCELLED,
    tell_ends=TELL_ENDS,
    log_attempts=fill(LOG_ATTEMPTS, returning=""),
    free_buckets=FREE_BUCKETS,
    back_to=BACK_TO,
    back_for=BACK_FOR,
)


class RescuedJob(NamedTuple):
    """A job that was taken from a dead worker, its state now, and the attempt that the death has ended."""

    id: int
    state: JobState
    task: str
    queue: str
    attempt: int
    lease: int
    worker_id: UUID
    why: str


class RescueQueries(Statements):
    """Taking running jobs from workers that do not run them."""

    def rescue(
        self,
        worker: UUID | None,
        max_crashes: int = MAX_CRASHES,
        limits: Mapping[str, int] = {},
        at_most: int = 500,
        only: int | None = None,
    ) -> Query[list[RescuedJob]]:
        """Take up to `at_most` running jobs from dead workers, or only the job with the id `only`.

        `limits`: how often jobs of the tasks that this worker knows may crash a worker; for others, `max_crashes` where
        the job has no limit of its own.
        """
        params = {"worker": worker, "at_most": at_most, "max_crashes": max_crashes, "limits": json.dumps(limits)}
        params["only"] = only
        return Query(
            self._sql(RESCUE), lambda rows: [RescuedJob(row[0], JobState(row[1]), *row[2:]) for row in rows], params
        )

    def rescuable(self, at_most: int = 500) -> Query[list[int]]:
        """Find the running jobs of dead workers."""
        return Query(self._sql(RESCUABLE), lambda rows: [row[0] for row in rows], {"at_most": at_most})

    def release_strays(self, worker: UUID, held: Sequence[int]) -> Query[list[int]]:
        """Give back this worker's running jobs except those it holds; returns their ids."""
        params = {"worker": worker, "held": list(held)}
        return Query(self._sql(RELEASE_STRAYS), lambda rows: [row[0] for row in rows], params)
