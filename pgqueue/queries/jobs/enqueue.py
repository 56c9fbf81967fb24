"""Putting jobs in."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.queries.base import Query, Statements, lines, packed, text_array
from pgqueue.tasks.sealing import seal_args
from pgqueue.tasks.versions import with_version

# Insert jobs with their first transition, in the caller's transaction: they exist if and only if it commits.
# It takes no lock that another enqueue, a claim or a limit needs: ids come from a sequence, nothing is counted,
# nothing updated. `given` draws the ids before the insert, so that they come back in the order of the input;
# `insert … select … returning` promises no order.
# A worker is notified only if one sleeps that serves the queue: NOTIFY takes a lock of the whole database at commit.
# The naive form, a trigger that always notifies, cost a third of the commits of 8 producers.
# The sleepers are read in this statement's snapshot: a worker that falls asleep later finds the job by its last
# look before sleeping, or by polling. The notification is a hint, never the truth.
# Nobody is notified while the server's queue of notifications is half full, because somebody listens and does not read:
# once it is full, a NOTIFY fails the transaction that commits it.
# A delay counts from the statement, not from the start of a transaction that may be minutes old.
ENQUEUE: LiteralString = """
with given as materialized (
    select nextval('{s}.job_id') as id, g.ord, g.task, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           g.history,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at
    from unnest(string_to_array(%(tasks)s, E'\n'), string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[], %(run_ats)s::timestamptz[],
                %(delays)s::float8[], string_to_array(%(tags)s, E'\n', ''), string_to_array(%(headers)s, E'\n', ''),
                %(histories)s::bool[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers, history, ord)
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at)
    select id, task, queue, priority, args::jsonb, max_attempts, run_at, coalesce(tags::text[], '{{}}'),
           coalesce(headers::jsonb, '{{}}'), history, statement_timestamp()
    from given order by ord
), logged as (
    insert into {s}.transition (job_id, to_state) select id, 'pending' from given where history order by ord
), woken as (
    select count(pg_notify({channel}, due.queue)) as calls
    from (select distinct queue from given where run_at <= statement_timestamp()) as due
    where exists (select from {s}.worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5
)
select given.id, given.run_at, statement_timestamp() from given, woken order by given.ord"""

# The same for jobs that differ in their arguments alone, as those of one call do: what they share is sent once and not
# unpacked for each. Promises what ENQUEUE does, in the same words wherever they fit.
# Whether to notify is asked once, at the end: there is one queue and one time.
_GIVEN: LiteralString = """
with given as materialized (
    select nextval('{s}.job_id') as id, g.args, g.ord,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from """

_INSERTED: LiteralString = """
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, history, created_at)
    select id, %(task)s, %(queue)s, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           %(history)s::bool, statement_timestamp()
    from given
), logged as (
    insert into {s}.transition (job_id, to_state) select id, 'pending' from given where %(history)s::bool
)
select """

_WOKEN: LiteralString = """, statement_timestamp(),
    case when {due} <= statement_timestamp()
         and exists (select from {s}.worker w where w.waiting and %(queue)s = any(w.queues))
         and pg_notification_queue_usage() < 0.5
         then pg_notify({channel}, %(queue)s) end
from given"""

# One job. The parts that many need are left out: a quarter of what the statement cost was starting and ending them.
ENQUEUE_ONE: LiteralString = (
    _GIVEN
    + "(values (%(args)s::jsonb, 1)) as g(args, ord)"
    + _INSERTED
    + "id, run_at"
    + _WOKEN.replace("{due}", "run_at")
)

# Many jobs: their arguments as one JSON array, which Postgres takes apart faster than lines of text.
ENQUEUE_MANY: LiteralString = (
    _GIVEN
    + "jsonb_array_elements(%(args)s::jsonb) with ordinality as g(args, ord)"
    + _INSERTED
    + "array_agg(id order by ord), min(run_at)"
    + _WOKEN.replace("{due}", "min(run_at)")
)


def _at_version(statement: LiteralString) -> LiteralString:
    """The same for jobs of a later version of their task: those of the first carry no headers."""
    return statement.replace("history, created_at)", "history, headers, created_at)").replace(
        "%(history)s::bool, statement_timestamp()", "%(history)s::bool, %(headers)s::jsonb, statement_timestamp()"
    )


ENQUEUE_ONE_VERSION: LiteralString = _at_version(ENQUEUE_ONE)

ENQUEUE_MANY_VERSION: LiteralString = _at_version(ENQUEUE_MANY)


class InsertedJob(NamedTuple):
    """What the database decided about a new job."""

    id: int
    run_at: datetime
    created_at: datetime


class AdmissionResult(NamedTuple):
    """What became of a job: whether it was let in, and whether it has taken its key in idempotency_key.

    Of one that met another: that one, and whether the caller's role may read it.
    """

    id: int
    run_at: datetime
    created_at: datetime
    admitted: bool
    took_key: bool
    readable: bool = True

    @property
    def inserted(self) -> InsertedJob:
        """What the database decided about it."""
        return InsertedJob(self.id, self.run_at, self.created_at)


NO_CONDITIONS = Conditions()

_text = json.JSONEncoder().encode


def conditions_of(job: NewJob) -> Conditions:
    """The terms of a job; of one that asks for nothing, none of them."""
    return job.conditions or NO_CONDITIONS


def header(conditions: Conditions) -> str | None:
    """What a job carries of its key, as JSON text."""
    return None if conditions.key is None else f'{{"idempotency_key": {_text(conditions.key)}}}'


def _headers(jobs: Sequence[NewJob], given: Sequence[str | None] | None) -> Sequence[str | None]:
    """What travels with each job: what was given, and its version where that is not the first."""
    texts = given or [None] * len(jobs)
    if not any(job.version > 1 for job in jobs):
        return texts
    return [with_version(text, job.version) for job, text in zip(jobs, texts, strict=True)]


class EnqueueQueries(Statements):
    """Putting jobs in."""

    def enqueue_one(self, job: NewJob) -> Query[InsertedJob]:
        """Insert one job."""
        args = job.args if self.codec is None else seal_args(self.codec, job.task, job.args)
        template = ENQUEUE_ONE if job.version == 1 else ENQUEUE_ONE_VERSION
        return Query(self._sql(template), lambda rows: InsertedJob(*rows[0][:3]), _shared(job, args))

    def enqueue_many(self, job: NewJob, args: str) -> Query[list[int]]:
        """Insert jobs that differ in their arguments alone, a JSON array; their ids come back in its order.

        The arguments are as they are to be stored: `TaskSpec.encode_many` has sealed them.
        """
        template = ENQUEUE_MANY if job.version == 1 else ENQUEUE_MANY_VERSION
        return Query(self._sql(template), lambda rows: list(rows[0][0]), _shared(job, args))

    def enqueue(self, jobs: Sequence[NewJob], headers: Sequence[str | None] | None = None) -> Query[list[InsertedJob]]:
        """Insert jobs; their ids and times come back in the order given."""
        return Query(
            self._sql(ENQUEUE),
            lambda rows: [InsertedJob(*row) for row in rows],
            {
                "tasks": lines([job.task for job in jobs]),
                "queues": lines([job.queue for job in jobs]),
                "priorities": packed([job.priority for job in jobs]),
                "args": lines(self._args(jobs)),
                "max_attempts": packed([job.max_attempts for job in jobs]),
                "run_ats": packed([job.run_at and job.run_at.astimezone(UTC).isoformat() for job in jobs]),
                "delays": packed([job.delay for job in jobs]),
                "tags": lines([text_array(job.tags) if job.tags else None for job in jobs]),
                "headers": lines(_headers(jobs, headers)),
                "histories": packed([job.history for job in jobs]),
            },
        )


def _shared(job: NewJob, args: str) -> dict[str, Any]:
    shared = {
        "args": args,
        "task": job.task,
        "queue": job.queue,
        "priority": job.priority,
        "max_attempts": job.max_attempts,
        "run_at": job.run_at,
        "delay": job.delay,
        "tags": text_array(job.tags) if job.tags else "{}",
        "history": job.history,
    }
    return shared if job.version == 1 else shared | {"headers": with_version(None, job.version)}
