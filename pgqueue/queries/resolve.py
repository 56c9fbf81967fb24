"""Writing how attempts ended, and taking jobs from dead workers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob, JobState
from pgqueue.jobs.lifecycle import SUCCEEDED, Resolution
from pgqueue.queries.base import Query, Row, Statements, lines, packed

CARRIED: LiteralString = (
    "id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, "
    "worker_id, claimed_at"
)

# Write a batch of outcomes, whatever they are, in one statement: rows that end are deleted from job_live and inserted
# where they belong, rows that go on are updated, every move is logged.
# Of a job without history nothing is kept when it succeeds; all else that happens to it is.
# A job that somebody has asked to cancel does not go on: where it would, it ends as cancelled. If this statement waited
# for that very cancellation it touches nothing: its snapshot is the older. So ask again for what would have gone on.
# The fence: only a row that is still running under this very lease is touched. A worker that was declared dead, and
# whose job runs elsewhere by now, changes nothing; its id is missing from what comes back.
# Deletes and inserts, because updating `state` across partitions of one table raised "tuple to be locked was already
# moved to another partition" within seconds under two workers; a deleted row is skipped silently.
# Finds its rows by primary key. The subselects hide how long the arrays are: the planner then probes the key for each
# row; told of hundreds it reads the whole table, or compares each with each (5 ms became 15 to 300 for 512 outcomes).
# Rows are locked in the order of ids, here and by NOTE_PROGRESS, which may want the same ones.
RESOLVE: LiteralString = (
    """
with given as materialized (
    select id, lease, target, reason, delay, refund, result, error
    from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select string_to_array(%(targets)s, E'\n', '')),
        (select string_to_array(%(reasons)s, E'\n', '')), (select %(delays)s::float8[]), (select %(refunds)s::int[]),
        (select string_to_array(%(results)s, E'\n', '')), (select string_to_array(%(errors)s, E'\n', '')))
        as g(id, lease, target, reason, delay, refund, result, error)
), ended as (
    delete from {s}.job_live j using given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease
    and (g.target in ('succeeded', 'cancelled', 'failed') or j.cancel_requested_at is not null)
    returning j.*, g.result, g.error, j.history or g.target <> 'succeeded' as told,
        case when g.target in ('pending', 'blocked') then 'cancelled' else g.target end as target,
        case when g.target in ('pending', 'blocked') then 'cancelled by request' else g.reason end as reason
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason, result)
    select """
    + CARRIED
    + """, target, reason, result::jsonb
    from ended where target = 'cancelled' or target = 'succeeded' and history
), dead_lettered as (
    insert into {s}.dead_letter ("""
    + CARRIED
    + """, reason, error)
    select """
    + CARRIED
    + """, coalesce(reason, 'failed'), error::jsonb
    from ended where target = 'failed'
), kept as (
    update {s}.job_live j
    set state = g.target, waits_for = case when g.target = 'blocked' then 'task' end,
        run_at = coalesce(now() + make_interval(secs => g.delay), j.run_at),
        attempt = j.attempt - g.refund, worker_id = null, claimed_at = null
    from given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease
    and g.target in ('pending', 'blocked') and j.cancel_requested_at is null
    returning j.id, g.target, j.attempt + g.refund as attempt, j.lease, %(worker)s::uuid as worker_id, g.reason,
        g.error, true as told
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, worker_id, reason, error::jsonb
    from (select id, target, attempt, lease, worker_id, reason, error, told from ended
          union all select id, target, attempt, lease, worker_id, reason, error, told from kept) as moved
    where told
)
select id from ended union all select id from kept"""
)

# The same for a batch of plain successes, as most are: one scan of the primary key with an array instead of a probe for
# each row, and nothing to sort out, saves a fifth. The CASE keeps the leases a hashed lookup; a plain `in` is joined.
SUCCEED: LiteralString = (
    """
with ended as (
    delete from {s}.job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running'
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    returning j.*
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state)
    select """
    + CARRIED
    + """, 'succeeded' from ended where history
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, 'running', 'succeeded', attempt, lease, worker_id from ended where history
)
select id from ended"""
)

# Take the running jobs of workers that have been declared lost, or whose row is gone. A job with an attempt left is
# pending again at once; one without, or one that has cost as many workers as its task allows, becomes a dead letter
# that names them all. From the second crash on jobs come back spread over seconds: whoever was with the guilty one in a
# worker should not be with it each time. Rows that somebody else holds (a resolve in flight, another rescuer) are
# skipped and looked at next time.
# A job may name a worker without a row. `stranger` looks for such between the workers there are: it hops through
# job_live_running from one to the next in each gap, so that it costs a probe a worker, whatever the statistics say and
# however many jobs run, or have run and are dead entries that somebody's snapshot keeps.
# The naive forms: joining all running rows to their workers, which an unanalysed table does by reading everything;
# hopping through all that is there, dead entries too; and deleting the worker's row first, which leaves jobs running
# for ever if the process dies in between.
RESCUE: LiteralString = (
    """
with recursive gap(low, high) as (
    select lag(id, 1, '00000000000000000000000000000000') over (order by id), id
    from (select id from {s}.worker union all select 'ffffffffffffffffffffffffffffffff') as w
), stranger(id, high) as (
    select low, high from gap
    union all
    select (select worker_id from {s}.job_live where worker_id > s.id and worker_id < high order by 1 limit 1), high
    from stranger s where id is not null
), dead as materialized (
    select id, format('worker on %%s, pid %%s, %%s', host, pid, coalesce(
        death || ' at ' || lost_at, 'did not beat since ' || heartbeat_at)) as why
    from {s}.worker where lost_at is not null
    union all
    select id, 'the worker that ran this attempt has no row any more'
    from stranger where id is not null and id not in (select low from gap)
), lost as materialized (
    select found.*, dead.why,
        jsonb_build_object('type', 'pgqueue.WorkerLost', 'message', dead.why) as error
    from dead cross join lateral (
        select j.id, j.lease, j.attempt >= j.max_attempts
            or j.crash_count + 1 >= coalesce((%(limits)s::jsonb ->> j.task)::int, %(max_crashes)s) as spent
        from {s}.job_live j where j.worker_id = dead.id and j.state = 'running'
        and (%(only)s::bigint is null or j.id = %(only)s)
        limit %(at_most)s for update skip locked
    ) as found
    limit %(at_most)s
), again as (
    update {s}.job_live j
    set state = 'pending', worker_id = null, claimed_at = null, crash_count = j.crash_count + 1,
        run_at = now() + (j.crash_count > 0)::int * make_interval(secs => random() * 2 ^ least(j.crash_count, 6))
    from lost where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = lost.lease
    and not lost.spent and j.cancel_requested_at is null
    returning j.id, 'pending' as target, j.attempt, j.lease, lost.error
), ended as (
    delete from {s}.job_live j using lost
    where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = lost.lease
    and (lost.spent or j.cancel_requested_at is not null)
    returning j.*, lost.error, lost.why,
        case when j.cancel_requested_at is null then 'failed' else 'cancelled' end as target
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, target, 'cancelled by request' from ended where target = 'cancelled'
), dead_lettered as (
    insert into {s}.dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
        max_attempts, crash_count, lease, worker_id, claimed_at, reason, error)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count + 1,
        lease, worker_id, claimed_at, 'crashed', error || jsonb_build_object('message', concat_ws('; ', (
            select string_agg(t.error ->> 'message', '; ' order by at) from {s}.transition t
            where job_id = ended.id and reason = 'rescued'), why))
    from ended where target = 'failed'
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, %(worker)s, 'rescued', error
    from (select * from again union all select id, target, attempt, lease, error from ended) as moved
)
select id, target from again union all select id, target from ended"""
)

# The jobs that RESCUE would take. Asked when it fails, to find the row that is to blame; reads all that run.
LOST_JOBS: LiteralString = """
select j.id from {s}.job_live j where j.worker_id is not null and j.state = 'running'
and not exists (select from {s}.worker w where w.id = j.worker_id and w.lost_at is null)
order by j.id limit %(at_most)s"""

# Note how far running jobs are, for whoever asks. Fenced like every write; by primary key. No index has the column, so
# the update is HOT where the page has room. Returns who is still ours.
NOTE_PROGRESS: LiteralString = """
update {s}.job_live j set progress = g.progress::jsonb
from unnest(%(ids)s::bigint[], %(leases)s::bigint[], %(progress)s::text[]) as g(id, lease, progress)
where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease returning j.id"""

# Give back the running jobs of this worker that it does not know of: a claim was committed, but its answer was lost
# with the connection. `held` are the jobs it has in a slot or whose outcome is still to be written; it must not be
# claiming meanwhile. Reads job_live_running for one worker. As everywhere, a job that somebody has asked to cancel does
# not go on. The rows are locked first: what follows goes by what the lock found, for a cancellation may be in flight.
RELEASE_STRAYS: LiteralString = (
    """
with strays as materialized (
    select id, lease, cancel_requested_at from {s}.job_live
    where worker_id = %(worker)s and state = 'running' and not id = any(%(held)s::bigint[]) for update
), again as (
    update {s}.job_live j
    set state = 'pending', worker_id = null, claimed_at = null, attempt = j.attempt - 1
    from strays where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = strays.lease
    and strays.cancel_requested_at is null
    returning j.id, 'pending' as target, j.attempt + 1 as attempt, j.lease, 'released' as reason
), ended as (
    delete from {s}.job_live j using strays
    where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = strays.lease
    and strays.cancel_requested_at is not null
    returning j.*, 'cancelled' as target, 'cancelled by request' as reason
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, target, reason from ended
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, worker_id, reason)
    select id, 'running', target, attempt, lease, %(worker)s, reason
    from (select id, target, attempt, lease, reason from again
          union all select id, target, attempt, lease, reason from ended) as moved
)
select id from again union all select id from ended"""
)


class Rescued(NamedTuple):
    """A job taken from a dead worker, and where it went."""

    id: int
    state: JobState


def _error_json(error: ErrorInfo | None) -> str | None:
    return None if error is None else json.dumps(asdict(error))


def _ids(rows: Sequence[Row]) -> set[int]:
    return {row[0] for row in rows}


class ResolveQueries(Statements):
    """Writing how attempts ended."""

    def resolve(self, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> Query[set[int]]:
        """Write a batch of resolutions of one worker's jobs. Returns the ids that moved; others lost their lease."""
        batch = sorted(batch, key=lambda entry: entry[0].id)
        params: dict[str, Any] = {
            "ids": packed([job.id for job, _ in batch]),
            "leases": packed([job.lease for job, _ in batch]),
        }
        told = [resolution for _, resolution in batch]
        if told == [SUCCEEDED] * len(told):
            return Query(self._sql(SUCCEED), _ids, params)
        params |= {
            "worker": batch[0][0].worker_id,
            "targets": lines([resolution.target for resolution in told]),
            "reasons": lines([r.reason and " ".join(r.reason.splitlines()) for r in told]),
            "delays": packed([r.delay if r.verb in ("retry", "snooze") else None for r in told]),
            "refunds": packed([int(resolution.refund) for resolution in told]),
            "results": lines([resolution.result for resolution in told]),
            "errors": lines([_error_json(resolution.error) for resolution in told]),
        }
        return Query(self._sql(RESOLVE), _ids, params)

    def release_strays(self, worker: UUID, held: Sequence[int]) -> Query[list[int]]:
        """Give back this worker's running jobs but those it holds; returns their ids."""
        params = {"worker": worker, "held": list(held)}
        return Query(self._sql(RELEASE_STRAYS), lambda rows: [row[0] for row in rows], params)

    def rescue(
        self,
        worker: UUID | None,
        max_crashes: int = 5,
        limits: Mapping[str, int] = {},
        at_most: int = 500,
        only: int | None = None,
    ) -> Query[list[Rescued]]:
        """Take up to `at_most` running jobs from dead workers, or only one that is known by its id.

        `limits`: tasks that may crash more or less often.
        """
        params = {"worker": worker, "at_most": at_most, "max_crashes": max_crashes, "limits": json.dumps(limits)}
        params["only"] = only
        return Query(self._sql(RESCUE), lambda rows: [Rescued(row[0], JobState(row[1])) for row in rows], params)

    def lost_jobs(self, at_most: int = 500) -> Query[list[int]]:
        """The running jobs of dead workers."""
        return Query(self._sql(LOST_JOBS), lambda rows: [row[0] for row in rows], {"at_most": at_most})

    def note_progress(self, notes: Sequence[tuple[ClaimedJob, str]]) -> Query[set[int]]:
        """Note how far jobs are, each a JSON object; returns the ids that are still this worker's."""
        notes = sorted(notes, key=lambda note: note[0].id)
        params = {
            "ids": [job.id for job, _ in notes],
            "leases": [job.lease for job, _ in notes],
            "progress": [text for _, text in notes],
        }
        return Query(self._sql(NOTE_PROGRESS), _ids, params)
