"""Inserting jobs without keys: one, many of one call, or any list of them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.flow import Flow, headers_of_each
from pgqueue.jobs.job import MAX_CRASHES, NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.queries.base import Query, Statements, fill, lines, packed, sparse, text_array
from pgqueue.queries.jobs.metered_parts import METERED, METERED_LIST, PLAIN, PLAIN_LIST, TURN_OF
from pgqueue.queries.jobs.parts import NOTIFY_WORKERS, WORKER_SLEEPS
from pgqueue.tasks.sealing import seal_args
from pgqueue.tasks.versions import with_own

# Insert jobs with their first transition, in the caller's transaction: they exist if and only if it commits.
# The statement takes no lock that another enqueue, a claim or a limit needs: ids come from a sequence, and it counts
# and updates nothing. `given` draws the ids before the insert, so that they come back in the order of the input;
# `insert … select … returning` promises no order.
# It notifies a worker only if one sleeps that serves the queue, because NOTIFY takes a lock of the whole database at
# commit. The naive form, a trigger that always notifies, cost a third of the commits of 8 producers.
# It reads the sleeping workers in its own snapshot. A worker that falls asleep later finds the job by its last look
# before it sleeps, or by polling: the notification is a hint, and nothing depends on it.
# It notifies nobody while the server's queue of notifications is half full, which happens when a listener does not
# read. Once that queue is full, NOTIFY fails the transaction that commits it.
# A delay counts from the statement, because the transaction may have begun minutes ago.
_LIST: LiteralString = fill(
    r"""
with given as materialized (
    select nextval('{s}.job_id') as id, g.ord, g.task, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           g.history,{lane}
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.ttl)) as expires_at
    from unnest(string_to_array(%(tasks)s, E'\n'), string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[],
                string_to_array(%(run_ats)s, ',', '')::timestamptz[], string_to_array(%(delays)s, ',', '')::float8[],
                string_to_array(%(tags)s, E'\n', ''), string_to_array(%(headers)s, E'\n', ''), %(histories)s::bool[],
                string_to_array(%(expires)s, ',', '')::timestamptz[], string_to_array(%(ttls)s, ',', '')::float8[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers, history,
                              expires, ttl, ord)
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at{columns})
    select id, task, queue, priority, args::jsonb, max_attempts, run_at, coalesce(tags::text[], '{{}}'),
           coalesce(headers::jsonb, '{{}}'), history, statement_timestamp(), expires_at{values}
    from given order by ord
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given where history order by ord
), {notify_workers}
select given.id, given.run_at, statement_timestamp() from given, workers_notified order by given.ord""",
    notify_workers=fill(NOTIFY_WORKERS, jobs="given"),
)
ENQUEUE: LiteralString = fill(_LIST, **PLAIN_LIST)
# The same for jobs of which some are metered: they wait for their turn in their lane. What the job carries in the
# header `$flow` decides alone, so nothing is read and no lock taken: a limit is looked at when the job is claimed.
ENQUEUE_METERED: LiteralString = fill(_LIST, **METERED_LIST)

# Insert one job: what ENQUEUE does, with the same promises, for the most frequent call. It leaves out what only a list
# of jobs needs: starting and ending those parts was a quarter of the statement's cost.
_ONE: LiteralString = fill(
    """
with given as materialized (
    select nextval('{s}.job_id') as id,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at\
{columns})
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, %(args)s::jsonb, %(max_attempts)s::int, run_at,
           %(tags)s::text[], coalesce(%(headers)s::jsonb, '{{}}'), %(history)s::bool, statement_timestamp(){values}
    from given
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given where %(history)s::bool
)
select id, run_at, statement_timestamp(),
    case when run_at <= statement_timestamp()
        and {worker_sleeps}
        then pg_notify({channel}, %(queue)s::text) end
from given""",
    worker_sleeps=WORKER_SLEEPS,
)
ENQUEUE_ONE: LiteralString = fill(_ONE, **PLAIN)
ENQUEUE_ONE_METERED: LiteralString = fill(_ONE, **METERED)  # as ENQUEUE_METERED

# Insert jobs of one call, which differ in their arguments alone: what ENQUEUE does, with the same promises. What the
# jobs share is sent once and not unpacked for each. Their arguments are one JSON array, which Postgres takes apart
# faster than lines of text. The jobs have one queue and one time, so the statement asks once, at the end, whether to
# notify.
_MANY: LiteralString = fill(
    """
with given as materialized (
    select nextval('{s}.job_id') as id, g.args, g.ord,{own}
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from {source}
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at\
{columns})
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           {headers}, %(history)s::bool, statement_timestamp(){values}
    from given
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given where %(history)s::bool
)
select array_agg(id order by ord), min(run_at), statement_timestamp(),
    case when min(run_at) <= statement_timestamp()
        and {worker_sleeps}
        then pg_notify({channel}, %(queue)s::text) end
from given""",
    worker_sleeps=WORKER_SLEEPS,
)
_ALIKE: LiteralString = fill(
    _MANY,
    own="",
    source="jsonb_array_elements(%(args)s::jsonb) with ordinality as g(args, ord)",
    headers="coalesce(%(headers)s::jsonb, '{{}}')",
)
ENQUEUE_MANY: LiteralString = fill(_ALIKE, **PLAIN)
ENQUEUE_MANY_METERED: LiteralString = fill(_ALIKE, **METERED)  # all have one turn
# The same for jobs each of which has a turn of its own: their headers are an array as well.
ENQUEUE_MANY_IN_TURN: LiteralString = fill(
    fill(
        _MANY,
        own=" g.headers,",
        source="""rows from (jsonb_array_elements(%(args)s::jsonb), jsonb_array_elements(%(headers)s::jsonb))
         with ordinality as g(args, headers, ord)""",
        headers="headers",
    ),
    columns=METERED["columns"],
    values=fill(TURN_OF, headers="headers"),
    state=METERED["state"],
)

NO_CONDITIONS = Conditions()
_text = json.JSONEncoder().encode


class InsertedJob(NamedTuple):
    """A job that was inserted, with the times that the database gave it."""

    id: int
    run_at: datetime
    created_at: datetime


class AdmissionResult(NamedTuple):
    """Whether a job with conditions was inserted, and whether it has taken its key in idempotency_key.

    Where another job holds the key, this is that job, and `readable` says whether the caller's role may read it.
    """

    id: int
    run_at: datetime
    created_at: datetime
    admitted: bool
    took_key: bool
    readable: bool = True

    @property
    def inserted(self) -> InsertedJob:
        """The job with the times that the database gave it."""
        return InsertedJob(self.id, self.run_at, self.created_at)


class EnqueueQueries(Statements):
    """Inserting jobs without keys."""

    def enqueue_one(self, job: NewJob) -> Query[InsertedJob]:
        """Insert one job."""
        args = job.args if self.codec is None else seal_args(self.codec, job.task, job.args)
        template = ENQUEUE_ONE if job.flow is None else ENQUEUE_ONE_METERED
        return Query(self._sql(template), lambda rows: InsertedJob(*rows[0][:3]), shared_params(job, args))

    def enqueue_many(self, job: NewJob, args: str) -> Query[list[int]]:
        """Insert jobs that are like `job` but for their arguments, a JSON array; their ids come back in its order.

        The arguments are as they are to be stored: `TaskSpec.encode_many` has sealed them.
        """
        template = ENQUEUE_MANY if job.flow is None else ENQUEUE_MANY_METERED
        return Query(self._sql(template), lambda rows: list(rows[0][0]), shared_params(job, args))

    def enqueue_many_metered(self, job: NewJob, args: str, flows: Sequence[Flow | None]) -> Query[list[int]]:
        """Insert jobs as `enqueue_many` does, each with its own flow; none of them is None."""
        params = shared_params(job, args)
        params["headers"] = headers_of_each(params["headers"], flows)
        return Query(self._sql(ENQUEUE_MANY_IN_TURN), lambda rows: list(rows[0][0]), params)

    def enqueue(self, jobs: Sequence[NewJob]) -> Query[list[InsertedJob]]:
        """Insert jobs, which may expire but have no keys; their ids and times come back in the order given."""
        params = list_params(jobs, self._args(jobs), [job.headers for job in jobs])
        template = ENQUEUE_METERED if are_metered(jobs) else ENQUEUE
        return Query(self._sql(template), lambda rows: [InsertedJob(*row) for row in rows], params)


def list_params(jobs: Sequence[NewJob], args: Sequence[str], headers: Sequence[str | None]) -> dict[str, Any]:
    """Return the parameters of a list of jobs, with these arguments and headers: an array for each column."""
    return {
        "tasks": lines([job.task for job in jobs]),
        "queues": lines([job.queue for job in jobs]),
        "priorities": packed([job.priority for job in jobs]),
        "args": lines(args),
        "max_attempts": packed([job.max_attempts for job in jobs]),
        "run_ats": sparse([job.run_at and job.run_at.astimezone(UTC).isoformat() for job in jobs]),
        "delays": sparse([job.delay for job in jobs]),
        "tags": lines([text_array(job.tags) if job.tags else None for job in jobs]),
        "headers": lines(_headers(jobs, headers)),
        "histories": packed([job.history for job in jobs]),
        **_expiries(jobs),
    }


def shared_params(job: NewJob, args: str) -> dict[str, Any]:
    """Return the parameters of one job, or of many that differ in their arguments alone."""
    return {
        "args": args,
        "task": job.task,
        "queue": job.queue,
        "priority": job.priority,
        "max_attempts": job.max_attempts,
        "run_at": job.run_at,
        "delay": job.delay,
        "tags": text_array(job.tags) if job.tags else "{}",
        "headers": job.headers
        if job.version == 1
        and job.max_crashes == MAX_CRASHES
        and job.dead_letter_task is None
        and job.flow is None
        and job.by is None
        else with_own(job.headers, job),
        "history": job.history,
    }


def are_metered(jobs: Sequence[NewJob]) -> bool:
    """Whether a rule concerns any of these jobs."""
    return any(job.flow is not None for job in jobs)


def conditions_of(job: NewJob) -> Conditions:
    """Return the conditions of a job; of one that has none, conditions that ask for nothing."""
    return job.conditions or NO_CONDITIONS


def keyed_headers(job: NewJob) -> str | None:
    """Return the headers of a job as JSON text: those of its caller, and its idempotency key."""
    key = conditions_of(job).key
    if key is None:
        return job.headers
    own = f'"idempotency_key": {_text(key)}}}'
    return f"{{{own}" if job.headers is None else f"{job.headers[:-1]}, {own}"


def _headers(jobs: Sequence[NewJob], texts: Sequence[str | None]) -> Sequence[str | None]:
    """Return the headers of each job: those given, and our own."""
    if not any(
        job.version > 1 or job.max_crashes != MAX_CRASHES or job.dead_letter_task or job.flow or job.by for job in jobs
    ):
        return texts
    return [with_own(text, job) for job, text in zip(jobs, texts, strict=True)]


def _expiries(jobs: Sequence[NewJob]) -> dict[str, Any]:
    """Return when each job expires: a time, or seconds from the statement on."""
    times = [job.conditions and job.conditions.expires for job in jobs]
    if not any(times):
        return {"expires": "", "ttls": ""}
    return {
        "expires": sparse([t.astimezone(UTC).isoformat() if isinstance(t, datetime) else None for t in times]),
        "ttls": sparse([t if isinstance(t, float) else None for t in times]),
    }
