"""Writing how attempts ended."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, LiteralString

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
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

# Note how far running jobs are, for whoever asks. Fenced like every write; by primary key. No index has the column, so
# the update is HOT where the page has room. Returns who is still ours.
NOTE_PROGRESS: LiteralString = """
update {s}.job_live j set progress = g.progress::jsonb
from unnest(%(ids)s::bigint[], %(leases)s::bigint[], %(progress)s::text[]) as g(id, lease, progress)
where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease returning j.id"""


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
        if told == [PLAIN_SUCCESS] * len(told):
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

    def note_progress(self, notes: Sequence[tuple[ClaimedJob, str]]) -> Query[set[int]]:
        """Note how far jobs are, each a JSON object; returns the ids that are still this worker's."""
        notes = sorted(notes, key=lambda note: note[0].id)
        params = {
            "ids": [job.id for job, _ in notes],
            "leases": [job.lease for job, _ in notes],
            "progress": [text for _, text in notes],
        }
        return Query(self._sql(NOTE_PROGRESS), _ids, params)
