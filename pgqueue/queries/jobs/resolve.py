"""Resolving jobs: writing how attempts ended, and how far the running ones are."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, LiteralString

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS, Resolution
from pgqueue.queries.base import Query, Row, Statements, fill, first_value, lines, nothing, packed, sparse
from pgqueue.queries.jobs.parts import CARRIED, CARRIED_PLAIN, LOG_ATTEMPTS, TELL_ENDS_LAST
from pgqueue.queries.jobs.succeed import SUCCEED, SUCCEED_COUNTED, SUCCEED_METERED, SUCCEED_ONE_COUNTED
from pgqueue.queries.jobs.ties import HOLD, TOLD, TiedEnds, read_ends
from pgqueue.queries.jobs.turns import AFTER_TOLD, FREE_BUCKETS, STOP_KEYS
from pgqueue.workflows.gates import CALLED, CHILDREN, GATED, LATE

UNKNOWN_DELAY = 15.0  # seconds until a metered job whose task this worker does not know is claimed again

# Write a batch of outcomes, of whatever kinds, in one statement. Rows that end are deleted from job_live and inserted
# into job_finished or dead_letter, rows that go on are updated, and every move is logged. Of a job without history
# nothing is kept or logged when it succeeds; everything else that happens to it is.
# The fence: only a row that is still running under this very lease is touched. A worker that was declared dead, and
# whose job runs elsewhere by now, changes nothing; the job's id is missing from what comes back.
# A job with a cancel request does not go on: where it would, it ends as cancelled. If this statement had to wait for
# the transaction that requests it, it touches nothing of the job, because its own snapshot is older. The caller then
# runs it again for the jobs that were to go on.
# It deletes and inserts, because the naive form, to update `state` across partitions of one table, raised "tuple to be
# locked was already moved to another partition" within seconds under two workers. A row that another transaction has
# deleted is skipped silently.
# A parked job has no result: its label stands in that place, and becomes its header `$version`. Likewise the flow of a
# job that is metered from now on, a JSON object, which becomes its header `$flow`; it may name another priority.
# By primary key. The subselects hide how long the arrays are, and the planner then probes the key for each row. If it
# knows of hundreds, it reads the whole table, or compares each with each: 5 ms became 15 to 300 ms for 512 outcomes.
# Rows are locked in the order of ids, here and in NOTE_PROGRESS, which may want the same ones.
# A metered job (`lane`) takes buckets along while it runs. This statement does not touch it, so that none can leak
# through it; RESOLVE_METERED gives them back. Nor does it touch a job with ties, whose end others wait for: that one's
# id is missing as well, and RESOLVE_TIED writes it.
_RESOLVE: LiteralString = fill(
    r"""
with given as materialized (
    select g.*, case when target = 'blocked' and result like '{{%%' then result::jsonb end as flow
    from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select string_to_array(%(targets)s, E'\n', '')),
        (select string_to_array(%(reasons)s, E'\n', '')), (select string_to_array(%(delays)s, ',', '')::float8[]),
        (select %(refunds)s::int[]),
        (select string_to_array(%(results)s, E'\n', '')), (select string_to_array(%(errors)s, E'\n', '')),
        (select string_to_array(%(fingerprints)s, E'\n', '')))
        as g(id, lease, target, reason, delay, refund, result, error, fingerprint)
){and_hold}, ended as (
    delete from {s}.job_live j using given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease and {metered}{when_held}
    and (g.target in ('succeeded', 'cancelled', 'failed') or j.cancel_requested_at is not null)
    returning j.*, g.result, g.error, g.fingerprint, g.delay, g.refund,
        case when g.target in ('pending', 'blocked') then 'cancelled' else g.target end as target,
        case when g.target in ('pending', 'blocked') then 'cancelled by request' else g.reason end as reason
), kept as (
    update {s}.job_live j
    set {goes_back}
        priority = coalesce((g.flow ->> 'priority'::text)::smallint, j.priority::smallint),
        headers = case when g.target = 'blocked' and g.result is not null then j.headers::jsonb || jsonb_build_object(
            case when g.flow is null then '$version' else '$flow' end, coalesce(g.flow, to_jsonb(g.result)))
            else j.headers end,
        run_at = coalesce(now() + make_interval(secs => g.delay), j.run_at),
        attempt = j.attempt - g.refund, worker_id = null, claimed_at = null
    from given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease and {metered}{when_held}
    and g.target in ('pending', 'blocked') and j.cancel_requested_at is null
    returning j.id, {went_back} as target, j.attempt + g.refund as attempt, j.lease, %(worker)s::uuid as worker_id,
        g.reason, g.error{returned}
), finished as (
    insert into {s}.job_finished ({carried}, state, reason, result)
    select {carried}, target, reason, result::jsonb
    from ended where target = 'cancelled' or target = 'succeeded' and history{returning}
), dead_lettered as (
    insert into {s}.dead_letter ({carried}, reason, error, fingerprint)
    select {carried}, coalesce(reason, 'failed'), error::jsonb, fingerprint
    from ended where target = 'failed'
), moved as (
    select id, target, attempt, lease, worker_id, reason, error::jsonb from ended
    where history or target <> 'succeeded'
    union all
    select id, target, attempt, lease, worker_id, reason, error::jsonb from kept
), {log_attempts}{and_tell}{and_buckets}
{answer}""",
    log_attempts=LOG_ATTEMPTS,
)
_PLAIN_MOVES: dict[str, LiteralString] = {
    "goes_back": """state = g.target, lane = (g.flow ->> 'lane'::text)::bigint,
        waits_for = case when g.flow is not null then 'turn' when g.target = 'blocked' then 'task' end,""",
    "went_back": "g.target",
    "returned": "",
    "and_buckets": "",
}
_MOVED: LiteralString = "select id from ended union all select id from kept"
_MOVED_AND_TOLD: LiteralString = fill(
    "select id, 'moved' from ended union all select id, 'moved' from kept{told}", told=TOLD
)
_TIES: dict[str, LiteralString] = {
    "and_hold": fill(", {hold}", hold=fill(HOLD, own="given")),
    "when_held": " and (select count(*) from held) >= 0",
    "and_tell": fill(", {tell}", tell=TELL_ENDS_LAST),
    "returning": " returning 1",
}
_NO_TIES: dict[str, LiteralString] = {"and_hold": "", "when_held": "", "and_tell": "", "returning": ""}
RESOLVE: LiteralString = fill(
    _RESOLVE,
    carried=CARRIED_PLAIN,
    metered="j.lane is null and j.ties is null",
    answer=_MOVED,
    **_NO_TIES,
    **_PLAIN_MOVES,
)

# Write a batch of outcomes of jobs with ties, successes too: what RESOLVE does, and what depends on those that end
# moves in the same statement, so that no worker can die in between. HOLD locks before. Returns more rows, see TOLD.
RESOLVE_TIED: LiteralString = fill(
    _RESOLVE,
    carried=CARRIED,
    metered="j.lane is null and j.ties is not null",
    answer=_MOVED_AND_TOLD,
    **_TIES,
    **_PLAIN_MOVES,
)

# Write a batch of outcomes of metered jobs, successes too: what RESOLVE does, and their buckets get room again in the
# same statement. Such a job goes back to where it waits for its turn, also where this worker does not know its task:
# parked, it would be adopted without its buckets. What RateLimited closes comes as pairs of a job and a bucket.
_RESOLVE_METERED: LiteralString = fill(
    _RESOLVE,
    goes_back="state = 'blocked', waits_for = 'turn',",
    went_back="'blocked'",
    returned=", j.headers, g.delay, g.refund",
    and_buckets=fill(
        """, left_running as materialized (
    select m.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets,
        case when m.refund = 1 then m.delay end as seconds,
        case when m.target = 'succeeded' then false when m.target <> 'cancelled' and m.refund = 0 then true end
            as failed,
        (select array_agg(c.bucket) from unnest((select %(closing)s::bigint[]), (select %(closed)s::text[]))
         as c(id, bucket) where c.id = m.id) as closes, 1::bigint as jobs
    from (select id, headers, target, delay, refund from ended
          union all select id, headers, target, delay, refund from kept) as m{after_told}
), {free_buckets}, {stop_keys}""",
        free_buckets=FREE_BUCKETS,
        stop_keys=STOP_KEYS,
    ),
)
RESOLVE_METERED: LiteralString = fill(
    _RESOLVE_METERED,
    carried=CARRIED_PLAIN,
    metered="j.lane is not null and j.ties is null",
    after_told="",
    after="",
    answer=_MOVED,
    **_NO_TIES,
)

# Write a batch of outcomes of metered jobs with ties: what RESOLVE_METERED and RESOLVE_TIED do. Buckets are locked
# last.
RESOLVE_METERED_TIED: LiteralString = fill(
    _RESOLVE_METERED,
    carried=CARRIED,
    metered="j.lane is not null and j.ties is not null",
    after_told=" where (select count(*) from workflows_told) >= 0",
    after=AFTER_TOLD,
    answer=_MOVED_AND_TOLD,
    **_TIES,
)

# Note how far running jobs are, for callers that ask. Fenced like every write of a worker; by primary key. No index has
# the column, so the update is HOT where the page has room. Returns the ids of the jobs that are still this worker's.
NOTE_PROGRESS: LiteralString = """
update {s}.job_live j set progress = g.progress::jsonb
from unnest(%(ids)s::bigint[], %(leases)s::bigint[], %(progress)s::text[]) as g(id, lease, progress)
where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease returning j.id"""


# Lock the rows of these jobs that nobody else has locked, until the end of this transaction; return the others. A
# caller whose open transaction has requested a cancellation holds the row of that job. Without this, the outcomes of
# the whole batch would wait for the caller. Used only after RESOLVE has waited for a lock in vain: to skip locked rows
# in RESOLVE itself would take a row that a rescue or a note of progress holds for a moment as a lost lease. By primary
# key.
LOCK_UNLOCKED: LiteralString = """
with free as materialized (
    select j.id from unnest((select %(ids)s::bigint[])) as g(id)
    cross join lateral (select id from {s}.job_live where id = g.id limit 1 for update skip locked) as j
)
select j.id from unnest((select %(ids)s::bigint[])) as g(id)
cross join lateral (select id from {s}.job_live where id = g.id limit 1) as j
where j.id not in (select id from free)"""

# Lock the rows of these jobs, their children and their gates with the workflows of those, as far as nobody else has
# locked them, until the end of this transaction; return the jobs of which somebody has locked anything. What
# LOCK_UNLOCKED is for RESOLVE, this is for RESOLVE_TIED: a caller who ends a sibling in a long transaction holds the
# gate of both. SKIP LOCKED all the way, so the order does not matter. By primary keys.
LOCK_UNLOCKED_TIES: LiteralString = """
with own as materialized (
    select j.id, j.gate_id from unnest((select %(ids)s::bigint[])) as g(id)
    cross join lateral (select id, gate_id from {s}.job_live where id = g.id limit 1 for update skip locked) as j
), edge as materialized (
    select own.id as parent, e.child_id as id from own cross join lateral (
        select d.child_id from {s}.dependency d where d.parent_id = any(array[own.id]) and d.late is not true) as e
), children as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from edge)) and (j.waits_for = 'jobs') is true for update skip locked
), held as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select id from edge except select id from children)) and (j.waits_for = 'jobs') is true
), gates as materialized (
    select g.id, g.workflow_id from {s}.gate g where g.id = any(array(select gate_id from own)) for update skip locked
), workflows as materialized (
    select w.id from {s}.workflow w
    where w.id = any(array(select workflow_id from gates)) for no key update skip locked
)
select j.id from unnest((select %(ids)s::bigint[])) as g(id)
cross join lateral (select id, gate_id from {s}.job_live where id = g.id limit 1) as j
where j.id not in (select id from own)
or j.id in (select parent from edge where id in (select id from held))
or j.gate_id not in (select id from gates where workflow_id in (select id from workflows))"""


# Mark a transaction, and read its mark: a setting that ends with the transaction. If a task has ended the one of
# ctx.transaction() in whatever way, and begun another, the mark is gone.
MARK_TRANSACTION: LiteralString = "select set_config('pgqueue.block', %(mark)s, true)"
READ_MARK: LiteralString = "select current_setting('pgqueue.block', true)"

# Whether this attempt has its job in the database that is asked. A task's own connection may lead to another one, where
# the job of this id is another job; so the worker counts, too, whose id no other database has. It locks nothing and
# promises nothing about what comes: the statement that ends the job is fenced. By primary key. Wrong: to ask for id
# and lease alone, which are small numbers in every database.
IS_HELD: LiteralString = """
select true from {s}.job_live
where id = %(id)s and state = 'running' and lease = %(lease)s and worker_id = %(worker)s"""


def is_counted(job: ClaimedJob, resolution: Resolution) -> bool:
    """Whether this is the plain success of a counted job: at its claim nothing but its gate waited for its end."""
    return (
        resolution is PLAIN_SUCCESS
        and job.ties is not None
        and job.ties & (CHILDREN | GATED | CALLED | LATE) == GATED
        and job.lane is None
    )


class ResolveQueries(Statements):
    """Resolving jobs."""

    def mark_transaction(self, mark: str) -> Query[None]:
        """Mark the transaction that is open."""
        return Query(self._sql(MARK_TRANSACTION), nothing, {"mark": mark})

    def read_mark(self) -> Query[str | None]:
        """Return the mark of the transaction that is open."""
        return Query(self._sql(READ_MARK), first_value)

    def is_held(self, job: ClaimedJob) -> Query[bool]:
        """Whether this database has a job in the hands of this attempt."""
        return Query(self._sql(IS_HELD), bool, {"id": job.id, "lease": job.lease, "worker": job.worker_id})

    def lock_unlocked(self, ids: Sequence[int]) -> Query[set[int]]:
        """Lock the rows of these jobs that nobody else has locked; returns the ids of those that others have."""
        return Query(self._sql(LOCK_UNLOCKED), _ids, {"ids": packed(ids)})

    def lock_unlocked_ties(self, ids: Sequence[int]) -> Query[set[int]]:
        """Lock these jobs and what their ends move, as far as nobody else has; returns those that must wait."""
        return Query(self._sql(LOCK_UNLOCKED_TIES), _ids, {"ids": packed(ids)})

    def resolve(self, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> Query[set[int]]:
        """Write a batch of resolutions of one worker's jobs, of which all are metered or none is, and none has ties.

        Returns the ids that moved; the others lost their lease, or somebody waits for their end by now.
        """
        batch = sorted(batch, key=lambda entry: entry[0].id)
        metered = bool(batch) and batch[0][0].lane is not None
        if all(resolution is PLAIN_SUCCESS or resolution == PLAIN_SUCCESS for _, resolution in batch):
            return Query(self._sql(SUCCEED_METERED if metered else SUCCEED), _ids, _leases(batch))
        return Query(self._sql(RESOLVE_METERED if metered else RESOLVE), _ids, _params(batch, metered))

    def resolve_tied(self, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> Query[TiedEnds]:
        """Write a batch as `resolve` does, of jobs that have ties, and move what depends on those that end."""
        batch = sorted(batch, key=lambda entry: entry[0].id)
        metered = bool(batch) and batch[0][0].lane is not None
        template = RESOLVE_METERED_TIED if metered else RESOLVE_TIED
        return Query(self._sql(template), read_ends, _params(batch, metered))

    def succeed_counted(self, batch: Sequence[tuple[ClaimedJob, Resolution]]) -> Query[TiedEnds]:
        """Write plain successes of counted jobs. Those for whose end others wait by now do not move: `resolve_tied`
        writes them."""
        if len(batch) == 1:
            one = batch[0][0]
            return Query(self._sql(SUCCEED_ONE_COUNTED), read_ends, {"id": one.id, "lease": one.lease})
        batch = sorted(batch, key=lambda entry: entry[0].id)
        return Query(self._sql(SUCCEED_COUNTED), read_ends, _leases(batch))

    def note_progress(self, notes: Sequence[tuple[ClaimedJob, str]]) -> Query[set[int]]:
        """Note how far jobs are, each a JSON object; returns the ids that are still this worker's."""
        notes = sorted(notes, key=lambda note: note[0].id)
        params = {
            "ids": [job.id for job, _ in notes],
            "leases": [job.lease for job, _ in notes],
            "progress": [text for _, text in notes],
        }
        return Query(self._sql(NOTE_PROGRESS), _ids, params)


def _leases(batch: Sequence[tuple[ClaimedJob, Resolution]]) -> dict[str, Any]:
    return {"ids": packed([job.id for job, _ in batch]), "leases": packed([job.lease for job, _ in batch])}


def _params(batch: Sequence[tuple[ClaimedJob, Resolution]], metered: bool) -> dict[str, Any]:
    """Return the parameters of RESOLVE and its twins."""
    resolutions = [resolution for _, resolution in batch]
    params = _leases(batch) | {
        "worker": batch[0][0].worker_id if batch else None,
        "targets": lines([r.target for r in resolutions]),
        "reasons": lines([r.reason and " ".join(r.reason.splitlines()) for r in resolutions]),
        "delays": sparse([_delay(r, metered) for r in resolutions]),
        "refunds": packed([int(r.refund) for r in resolutions]),
        "results": lines([r.label or r.result for r in resolutions]),
        "errors": lines([_error_json(r.error) for r in resolutions]),
        "fingerprints": lines([r.fingerprint for r in resolutions]),
    }
    if metered:
        closing = [(job.id, bucket) for job, resolution in batch for bucket in resolution.closes]
        params |= {"closing": packed(job for job, _ in closing), "closed": [bucket for _, bucket in closing]}
    return params


def _delay(resolution: Resolution, metered: bool) -> float | None:
    """Return after how many seconds a job that goes on is due; None where its time stays."""
    if metered and resolution.verb == "park":
        return UNKNOWN_DELAY
    return resolution.delay if resolution.verb in ("retry", "snooze") else None


def _error_json(error: ErrorInfo | None) -> str | None:
    return None if error is None else json.dumps(asdict(error))


def _ids(rows: Sequence[Row]) -> set[int]:
    return {row[0] for row in rows}
