"""Dead letters: read in groups, brought back, edited, discarded."""

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.base import Query, Row, Statements, fill, first_value, lines, nothing, packed
from pgqueue.queries.chosen import Candidate
from pgqueue.queries.filters import DEAD_FITS, DEAD_GROUP, parameters
from pgqueue.queries.jobs.change import EditedJob
from pgqueue.queries.jobs.metered_parts import LANE, STATE, TURNED
from pgqueue.queries.jobs.parts import CARRIED, MAY_NOTIFY, NOTIFY_WORKERS
from pgqueue.queries.jobs.read import JOB, read_job
from pgqueue.queries.jobs.ties import BESIDE, HOLD, NOTIFY_KEEPERS, OPEN, TELL
from pgqueue.queries.jobs.turns import AFTER_TOLD, RESUME_STOPPED
from pgqueue.tasks.sealing import open_job

# Count dead letters by fingerprint, the latest failure first. Reads all dead letters: asked by hand.
GROUPS: LiteralString = """
select fingerprint, jobs, first_failed_at, last_failed_at, tasks, queues, error, newest_id
from {s}.dead_group order by last_failed_at desc limit %(limit)s::int"""

# List the newest dead letters that fit, walking backwards along the primary key.
LIST_DEAD: LiteralString = fill(
    """
with picked as (
    select j.id from {s}.dead_letter j
    where (%(before)s::bigint is null or j.id < %(before)s::bigint)
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[])) and {fits}
    order by j.id desc limit %(limit)s::int
)
select {job}, null
from {s}.job j where j.id = any(array(select id from picked)::bigint[]) and j.state = 'failed' order by j.id desc""",
    job=JOB,
    fits=DEAD_FITS,
)

# Read the groups of some dead letters, such as those of one page. By primary key. The naive form, the view
# `dead_group`, reads all dead letters.
GROUPS_OF: LiteralString = fill(
    "select j.id, {group} from {s}.dead_letter j where j.id = any(%(ids)s::bigint[])",
    group=fill(DEAD_GROUP, dead="j"),
)

# Bring dead letters back: the same id and history, as if the job had not run yet. A metered job waits for its turn, as
# it did before: its lane is in its header. `lease` stays, because it fences what
# old workers may still write. The expiry goes, which has passed most likely; so does the unique key, which another job
# may hold by now. The n-th job of an operation with a rate is due n / rate seconds later: no process has to wait.
# `now()` and not `clock_timestamp()`: NOTIFY_WORKERS finds jobs that are due when the statement begins.
# By primary key. The rows are locked by the batch; where they are not, those that are gone meanwhile are left out. Left
# out is a dead letter whose end its workflow has counted: REVIVE brings it back, with what was skipped for it. One
# whose workflow holds was not counted, and goes on from here. A callback comes back alone, unless its workflow is
# retried at this moment (BESIDE).
REDRIVE: LiteralString = fill(
    r"""
with given as (
    select id, flow::jsonb as flow, ord
    from unnest(%(ids)s::bigint[], string_to_array(%(flows)s, E'\n', '')) with ordinality as g(id, flow, ord)
), {beside}, begun as (
    select greatest((select next_run_at from {s}.operation where id = %(operation)s::bigint), now())
           + make_interval(secs => %(delay)s::float8) as at
), gone as (
    delete from {s}.dead_letter j using given g
    where j.id = any(array[g.id]) and {is_open} and j.id not in (select id from stay)
    returning j.*, g.ord, {turned} as carried
), again as (
    select gone.*, {lane} as lane from gone
), back as (
    insert into {s}.job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, lane, state, waits_for, ties, gate_id, workflow_id)
    select id, task, coalesce(%(queue)s::text, queue), priority, args, tags, carried,
           begun.at + make_interval(secs => case when %(gap)s::float8 > 0::float8
                                                 then (ord - 1)::float8 * %(gap)s::float8 else 0 end),
           created_at, 0, coalesce(%(attempts)s::int, max_attempts), 0, lease,
           lane, {state}, case when lane is not null then 'turn' end, ties, gate_id, workflow_id
    from again cross join begun
    returning id, queue::text, run_at::timestamptz, lease, state
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, lease, reason)
    select id, 'failed', state, lease, %(reason)s::text from back
), paced as (
    update {s}.operation o
    set next_run_at = begun.at - make_interval(secs => %(delay)s::float8)
                      + make_interval(secs => %(gap)s::float8 * (select count(*) from back)::float8)
    from begun where o.id = %(operation)s::bigint and %(gap)s::float8 > 0::float8
), {resume_stopped}, {notify_workers}
select count(back.id) from back, workers_notified""",
    resume_stopped=fill(RESUME_STOPPED, after=""),
    turned=fill(TURNED, flow="g.flow", headers="j.headers::jsonb"),
    beside=fill(BESIDE, table="dead_letter"),
    is_open=OPEN,
    lane=fill(LANE, headers="gone.carried"),
    state=STATE,
    notify_workers=fill(NOTIFY_WORKERS, jobs="back"),
)

# Discard dead letters: they end as cancelled, in the history, from which retention drops them. By primary key. For a
# workflow that holds this is the end of the job, as a failure: what depends on it moves.
DISCARD: LiteralString = fill(
    """
with given as (
    select g.id from unnest((select %(ids)s::bigint[])) as g(id)
), {hold}, gone as (
    delete from {s}.dead_letter where id = any(%(ids)s::bigint[]) returning *
), finished as (
    insert into {s}.job_finished ({carried}, state, reason)
    select {carried}, 'cancelled', %(reason)s::text from gone
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'failed', 'cancelled', attempt, lease, %(reason)s::text from gone
), tied as materialized (
    select id, 'failed' as target, ties::int as ties, gate_id, false as skipped from gone where ties::int & 16 > 0
), {tell}, {notify_keepers}, {resume_stopped}
select (select count(*) from gone) from children_notified, keepers_notified""",
    hold=fill(HOLD, own="given"),
    tell=fill(TELL, gone="gone", held="held", written="", may_notify=MAY_NOTIFY),
    notify_keepers=fill(NOTIFY_KEEPERS, may_notify=MAY_NOTIFY),
    resume_stopped=fill(RESUME_STOPPED, after=AFTER_TOLD),
    carried=CARRIED,
)

# Read the arguments of a dead letter as they are stored, and lock it. By primary key.
LOCK_DEAD: LiteralString = """
select task, args::text, headers::text from {s}.dead_letter where id = %(id)s::bigint for update"""

# Change the arguments of a dead letter, and keep what they were in the log. By primary key; LOCK_DEAD has locked it.
EDIT_DEAD: LiteralString = fill(
    """
with edited as (
    update {s}.dead_letter d set args = %(args)s::jsonb, headers = {turned}
    from (select id, args from {s}.dead_letter where id = %(id)s::bigint) as old
    where d.id = %(id)s::bigint returning d.id, d.attempt, d.lease, old.args as previous
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason, error)
    select id, 'failed', 'failed', attempt, lease, %(reason)s::text,
           jsonb_build_object('previous_args', previous) from edited
)
select count(*) from edited""",
    turned=fill(TURNED, flow="%(flow)s::jsonb", headers="d.headers::jsonb"),
)


MOST_NOTES = 20

# Put a note on a dead letter, in its header `$notes`, and log who did. The header is an array, the newest note last, of
# which the newest stay; anything else, which SQL may have written there, goes. By primary key; the one writes after the
# other, and of a dead letter that is gone by then nothing comes back. The array is made in the update itself, from the
# row as it is once it is locked: the naive form, which reads the notes first, loses one of two that come together, as
# does `now()`, by which the later note may be the older one, where clock_timestamp() is read behind the lock.
ANNOTATE_DEAD: LiteralString = """
with annotated as (
    update {s}.dead_letter d
    set headers = d.headers::jsonb || jsonb_build_object('$notes'::text, (
        select coalesce(jsonb_agg(newest.note order by newest.ord), '[]'::jsonb) from (
            select note, ord from jsonb_array_elements(
                case when jsonb_typeof(d.headers::jsonb -> '$notes'::text) = 'array'
                     then d.headers::jsonb -> '$notes'::text else '[]' end) with ordinality as old(note, ord)
            order by ord desc limit %(most)s::int - 1) as newest
        ) || jsonb_build_array(jsonb_build_object(
            'at'::text, clock_timestamp(), 'by'::text, %(by)s::text, 'text'::text, %(text)s::text)))
    where d.id = %(id)s::bigint returning d.id, d.attempt, d.lease
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'failed', 'failed', attempt, lease, %(reason)s::text from annotated
)
select count(*) from annotated"""


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


class DeadQueries(Statements):
    """Dead letters."""

    def groups(self, limit: int) -> Query[builtins.list[DeadGroup]]:
        """Count dead letters by fingerprint."""
        return Query(self._sql(GROUPS), lambda rows: [DeadGroup(*row) for row in rows], {"limit": limit})

    def list(self, chosen: DeadFilter, before: int | None, limit: int) -> Query[builtins.list[Job]]:
        """List the newest dead letters that fit, without their attempts."""
        params = parameters(chosen) | {"before": before, "limit": limit}
        return Query(self._sql(LIST_DEAD), lambda rows: [self._job(row) for row in rows], params)

    def groups_of(self, ids: Sequence[int]) -> Query[dict[int, str]]:
        """Return the group of each of these dead letters that is there."""
        return Query(self._sql(GROUPS_OF), lambda rows: {row[0]: row[1] for row in rows}, {"ids": list(ids)})

    def redrive(
        self, operation: int, ids: Sequence[int], reason: str, options: Mapping[str, Any],
        flows: Mapping[int, str | None] = {},
    ) -> Query[int]:  # fmt: skip
        """Bring dead letters back; returns how many. `flows`: those that change, as in EditedJob."""
        rate = options.get("rate")
        params = {
            "operation": operation, "ids": packed(ids), "reason": reason, "gap": 1 / rate if rate else 0.0,
            "flows": lines([flows.get(job) for job in ids]), "delay": options.get("delay") or 0.0,
            "attempts": options.get("attempts"), "queue": options.get("queue"),
        }  # fmt: skip
        return Query(self._sql(REDRIVE), first_value, params)

    def discard(self, ids: Sequence[int], reason: str) -> Query[int]:
        """End dead letters as cancelled; returns how many."""
        return Query(self._sql(DISCARD), first_value, {"ids": packed(ids), "reason": reason})

    def lock_dead(self, job: int) -> Query[Candidate | None]:
        """Lock a dead letter; None if there is none with this id."""
        return Query(self._sql(LOCK_DEAD), lambda rows: Candidate(job, *rows[0]) if rows else None, {"id": job})

    def edit(self, job: int, edited: EditedJob, reason: str) -> Query[None]:
        """Change the arguments of a dead letter, and its flow with them."""
        return Query(self._sql(EDIT_DEAD), nothing, {"id": job, "reason": reason, **edited._asdict()})

    def annotate(self, job: int, text: str, by: str) -> Query[int]:
        """Put a note on a dead letter; returns 0 if there is none with this id."""
        params = {"id": job, "text": text, "by": by, "reason": f"annotated by {by}", "most": MOST_NOTES}
        return Query(self._sql(ANNOTATE_DEAD), first_value, params)

    def _job(self, row: Row) -> Job:
        return read_job(row) if self.codec is None else open_job(self.codec, read_job(row))
