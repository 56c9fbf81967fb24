"""Dead letters: read in groups, brought back, edited, discarded."""

import builtins
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.base import Query, Row, Statements, fill, first_value, nothing, packed
from pgqueue.queries.jobs.parts import CARRIED, DEAD_GROUP, NOTIFY_WORKERS
from pgqueue.queries.jobs.read import JOB, read_job
from pgqueue.queries.operations import Operation
from pgqueue.tasks.sealing import open_job

MOST_PREVIEWED = 10_000
WINDOW = 20_000  # dead letters that one statement looks at

# Whether a dead letter `d` fits a filter. The one compiler of filters: a preview and an operation mean the same rows.
_FITS: LiteralString = fill(
    r"""(%(task)s::text is null or d.task::text like %(task)s::text)
    and (%(queue)s::text is null or d.queue::text = %(queue)s::text)
    and (%(error)s::text is null or d.error ->> 'type'::text = %(error)s::text
         or substring(d.error ->> 'type'::text, '[^.]*$'::text) = %(error)s::text)
    and (%(group)s::text is null
         or {group} = %(group)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(d.tags))
    and (%(since)s::timestamptz is null or d.failed_at >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or d.failed_at < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or d.args::jsonb @> %(args)s::jsonb)""",
    group=DEAD_GROUP,
)

# The ids to look at: those that were named, or the next ones of the table. By primary key, either way.
_NEAR: LiteralString = """near as materialized (
    select d.id from {s}.dead_letter d
    where d.id > %(after)s::bigint and (%(ids)s::bigint[] is null or d.id = any(%(ids)s::bigint[]))
    order by d.id limit %(window)s::int
)"""

# Read the dead letters that fit, up to `limit`, from the lowest id on: what an operation would do. Asked by hand; it
# walks along the primary key until it has found enough.
PREVIEW: LiteralString = fill(
    """
select d.id, d.task, d.queue, d.failed_at, d.reason, d.error ->> 'type'::text from {s}.dead_letter d
where (%(ids)s::bigint[] is null or d.id = any(%(ids)s::bigint[])) and {fits}
order by d.id limit %(limit)s::int""",
    fits=_FITS,
)

# Count dead letters by fingerprint, the latest failure first. Reads all dead letters: asked by hand.
GROUPS: LiteralString = """
select fingerprint, jobs, first_failed_at, last_failed_at, tasks, queues, error, newest_id
from {s}.dead_group order by last_failed_at desc limit %(limit)s::int"""

# List the newest dead letters that fit, walking backwards along the primary key.
LIST_DEAD: LiteralString = fill(
    """
select {job}, null
from {s}.job j join {s}.dead_letter d on d.id = j.id
where j.state = 'failed' and (%(before)s::bigint is null or d.id < %(before)s::bigint)
and (%(ids)s::bigint[] is null or d.id = any(%(ids)s::bigint[])) and {fits}
order by d.id desc limit %(limit)s::int""",
    job=JOB,
    fits=_FITS,
)

# Lock the next dead letters that fit, of those that were there when the operation began: a job that fails once more is
# not brought back again and again. `reached` is the last id looked at, null at the end. The operation's row is locked
# before, so one process at a time is here. By primary key.
NEXT_BATCH: LiteralString = fill(
    """
with {near}, found as materialized (
    select d.id, d.task, d.args::text, d.headers::text from {s}.dead_letter d
    where d.id = any(array(select id from near)) and d.failed_at <= %(started_at)s::timestamptz and {fits}
    order by d.id limit %(limit)s::int for update
), seen as (
    select count(*) as found, max(id) as last_found from found
)
select case when seen.found = %(limit)s::int then seen.last_found
            when (select count(*) from near) < %(window)s::int then null else (select max(id) from near) end,
       found.id, found.task, found.args, found.headers
from seen left join found on true order by found.id""",
    near=_NEAR,
    fits=_FITS,
)

# Bring dead letters back: the same id and history, as if the job had not run yet. `lease` stays, because it fences what
# old workers may still write. The expiry goes, which has passed most likely; so does the unique key, which another job
# may hold by now. The n-th job of an operation with a rate is due n / rate seconds later: no process has to wait.
# By primary key. The rows are locked by NEXT_BATCH.
REDRIVE: LiteralString = fill(
    """
with given as (
    select id, ord from unnest(%(ids)s::bigint[]) with ordinality as g(id, ord)
), begun as (
    select greatest((select next_run_at from {s}.operation where id = %(operation)s::bigint), clock_timestamp())
           + make_interval(secs => %(delay)s::float8) as at
), gone as (
    delete from {s}.dead_letter d using given g where d.id = any(array[g.id]) returning d.*, g.ord
), back as (
    insert into {s}.job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease)
    select id, task, coalesce(%(queue)s::text, queue), priority, args, tags, headers,
           begun.at + make_interval(secs => case when %(gap)s::float8 > 0::float8
                                                 then (ord - 1)::float8 * %(gap)s::float8 else 0 end),
           created_at, 0, coalesce(%(attempts)s::int, max_attempts), 0, lease
    from gone cross join begun
    returning id, queue::text, run_at::timestamptz, lease
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, lease, reason)
    select id, 'failed', 'pending', lease, %(reason)s::text from back
), paced as (
    update {s}.operation o
    set next_run_at = begun.at - make_interval(secs => %(delay)s::float8)
                      + make_interval(secs => %(gap)s::float8 * (select count(*) from back)::float8)
    from begun where o.id = %(operation)s::bigint and %(gap)s::float8 > 0::float8
), {notify_workers}
select count(back.id) from back, workers_notified""",
    notify_workers=fill(NOTIFY_WORKERS, jobs="back"),
)

# Discard dead letters: they end as cancelled, in the history, from which retention drops them. By primary key.
DISCARD: LiteralString = fill(
    """
with gone as (
    delete from {s}.dead_letter where id = any(%(ids)s::bigint[]) returning *
), finished as (
    insert into {s}.job_finished ({carried}, state, reason)
    select {carried}, 'cancelled', %(reason)s::text from gone
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'failed', 'cancelled', attempt, lease, %(reason)s::text from gone
)
select count(*) from gone""",
    carried=CARRIED,
)

# Read the arguments of a dead letter as they are stored, and lock it. By primary key.
LOCK_DEAD: LiteralString = """
select task, args::text, headers::text from {s}.dead_letter where id = %(id)s::bigint for update"""

# Change the arguments of a dead letter, and keep what they were in the log. By primary key; LOCK_DEAD has locked it.
EDIT_DEAD: LiteralString = """
with edited as (
    update {s}.dead_letter d set args = %(args)s::jsonb
    from (select id, args from {s}.dead_letter where id = %(id)s::bigint) as old
    where d.id = %(id)s::bigint returning d.id, d.attempt, d.lease, old.args as previous
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason, error)
    select id, 'failed', 'failed', attempt, lease, %(reason)s::text,
           jsonb_build_object('previous_args', previous) from edited
)
select count(*) from edited"""


class DeadLetter(NamedTuple):
    """A dead letter as a preview shows it."""

    id: int
    task: str
    queue: str
    failed_at: datetime
    reason: str
    error: str | None


class DeadGroup(NamedTuple):
    """Dead letters whose errors have one cause, as far as their fingerprint tells."""

    fingerprint: str
    jobs: int
    first_failed_at: datetime
    last_failed_at: datetime
    tasks: list[str]
    queues: list[str]
    error: str
    newest_id: int


class Candidate(NamedTuple):
    """A dead letter of a batch, with its arguments as they are stored."""

    id: int
    task: str
    args: str
    headers: str


class Batch(NamedTuple):
    """The next dead letters of an operation; `reached` is None at the end."""

    reached: int | None
    candidates: list[Candidate]


class DeadQueries(Statements):
    """Dead letters."""

    def preview(self, chosen: DeadFilter, limit: int = MOST_PREVIEWED + 1) -> Query[builtins.list[DeadLetter]]:
        """Read the dead letters that fit a filter, up to `limit`."""
        params = _filter(chosen) | {"limit": limit}
        return Query(self._sql(PREVIEW), lambda rows: [DeadLetter(*row) for row in rows], params)

    def groups(self, limit: int) -> Query[builtins.list[DeadGroup]]:
        """Count dead letters by fingerprint."""
        return Query(self._sql(GROUPS), lambda rows: [DeadGroup(*row) for row in rows], {"limit": limit})

    def list(self, chosen: DeadFilter, before: int | None, limit: int) -> Query[builtins.list[Job]]:
        """List the newest dead letters that fit, without their attempts."""
        params = _filter(chosen) | {"before": before, "limit": limit}
        return Query(self._sql(LIST_DEAD), lambda rows: [self._job(row) for row in rows], params)

    def next_batch(self, operation: Operation, chosen: DeadFilter, limit: int) -> Query[Batch]:
        """Lock the next dead letters of an operation."""
        params = _filter(chosen) | {"after": operation.reached, "started_at": operation.started_at, "limit": limit}
        return Query(self._sql(NEXT_BATCH), _batch, params | {"window": WINDOW})

    def redrive(self, operation: int, ids: Sequence[int], reason: str, options: Mapping[str, Any]) -> Query[int]:
        """Bring dead letters back; returns how many."""
        rate = options.get("rate")
        params = {
            "operation": operation, "ids": packed(ids), "reason": reason, "gap": 1 / rate if rate else 0.0,
            "delay": options.get("delay") or 0.0, "attempts": options.get("attempts"), "queue": options.get("queue"),
        }  # fmt: skip
        return Query(self._sql(REDRIVE), first_value, params)

    def discard(self, ids: Sequence[int], reason: str) -> Query[int]:
        """End dead letters as cancelled; returns how many."""
        return Query(self._sql(DISCARD), first_value, {"ids": packed(ids), "reason": reason})

    def lock_dead(self, job: int) -> Query[Candidate | None]:
        """Lock a dead letter; None if there is none with this id."""
        return Query(self._sql(LOCK_DEAD), lambda rows: Candidate(job, *rows[0]) if rows else None, {"id": job})

    def edit(self, job: int, args: str, reason: str) -> Query[None]:
        """Change the arguments of a dead letter."""
        return Query(self._sql(EDIT_DEAD), nothing, {"id": job, "args": args, "reason": reason})

    def _job(self, row: Row) -> Job:
        return read_job(row) if self.codec is None else open_job(self.codec, read_job(row))


def _filter(chosen: DeadFilter) -> dict[str, Any]:
    return {
        "task": chosen.task and _as_pattern(chosen.task), "queue": chosen.queue, "error": chosen.error,
        "group": chosen.group, "tag": chosen.tag, "since": chosen.since, "until": chosen.until,
        "args": None if chosen.args is None else json.dumps(chosen.args),
        "ids": None if chosen.ids is None else list(chosen.ids),
    }  # fmt: skip


def _as_pattern(task: str) -> str:
    """Return a pattern of LIKE for a name with `*` in it."""
    return re.sub(r"[\\%_]", r"\\\g<0>", task).replace("*", "%")


def _batch(rows: Sequence[Row]) -> Batch:
    return Batch(rows[0][0], [Candidate(*row[1:]) for row in rows if row[1] is not None])
