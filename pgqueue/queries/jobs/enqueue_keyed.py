"""Inserting jobs with idempotency keys: one, or many of one call that differ in their arguments and keys alone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Query, Row, fill, sparse
from pgqueue.queries.jobs.enqueue import AdmissionResult, EnqueueQueries, conditions_of, keyed_headers, shared_params
from pgqueue.queries.jobs.metered_parts import METERED, PLAIN, TURN_OF
from pgqueue.queries.jobs.parts import WORKER_SLEEPS
from pgqueue.tasks.versions import with_own

# Metered jobs have their headers in `given`.
_METERED: dict[str, LiteralString] = {**METERED, "values": fill(TURN_OF, headers="headers")}

# Insert one job if it gets its idempotency key; the promises are those of ENQUEUE_ONE and ENQUEUE_UNIQUE_IN_WINDOW, and
# so is `read_committed_only`. The statement is apart from the latter, which spends most of its time on sixteen arrays
# of one item each. A key whose time has passed is left as it is: FREE_EXPIRED_KEYS.
_ONE_KEYED: LiteralString = fill(
    """
with given as materialized (
    select nextval('{s}.job_id') as id, %(args)s::jsonb as args, %(headers)s::jsonb as headers,
           %(key)s::uuid as key,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    where not %(read_committed_only)s::bool or current_setting('transaction_isolation') like 'read %%'
), taken as (
    insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + make_interval(secs => %(window)s::float8)
    from given on conflict do nothing returning job_id
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at{columns})
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           headers, %(history)s::bool, statement_timestamp(),
           coalesce(%(expires)s::timestamptz, statement_timestamp() + make_interval(secs => %(ttl)s::float8)){values}
    from given, taken
), logged as (
    insert into {s}.transition (job_id, to_state) select job_id, {state} from taken where %(history)s::bool
)
select id, run_at, statement_timestamp(), job_id is not null, job_id is not null,
    case when job_id is not null and run_at <= statement_timestamp()
        and {worker_sleeps}
        then pg_notify({channel}, %(queue)s::text) end
from given left join taken on true""",
    worker_sleeps=WORKER_SLEEPS,
)
ENQUEUE_ONE_KEYED: LiteralString = fill(_ONE_KEYED, **PLAIN)
ENQUEUE_ONE_KEYED_METERED: LiteralString = fill(_ONE_KEYED, **_METERED)

# Insert the jobs of one call that get their idempotency keys; the promises are those of ENQUEUE_MANY and
# ENQUEUE_UNIQUE_IN_WINDOW. A job that gets its key is inserted by the same statement; for one that does not, nothing is
# written. Arguments and headers come as JSON arrays, keys as an array of uuids; a key may be null.
# The statement takes the keys in their order, whatever the order of the jobs, and waits for each that another
# transaction has just taken: two of these statements cannot deadlock. It leaves a key whose time has passed as it is,
# for TAKE_EXPIRED_KEYS.
# Whether all jobs got their keys is counted once (`tally`). Only if not, each job is looked up among `taken`, as a
# hashed subplan because the conditions are joined by `or`. The naive form, `where id in (select …)` alone, costs half a
# microsecond a job.
# The answer is one row of arrays: all ids in the order of the jobs, and the ids of the admitted ones if others were not
# admitted. For the others the caller runs FIND_KEY_HOLDERS: this statement's snapshot is older than the transactions it
# waited for.
_MANY_KEYED: LiteralString = fill(
    """
with given as materialized (
    select nextval('{s}.job_id') as id, g.args, g.headers, g.key, g.ord,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from rows from (jsonb_array_elements(%(args)s::jsonb), jsonb_array_elements(%(headers)s::jsonb),
                    unnest(string_to_array(%(keys)s, ',', '')::uuid[]))
         with ordinality as g(args, headers, key, ord)
), taken as (
    insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + make_interval(secs => %(window)s::float8)
    from given where key is not null order by key on conflict do nothing returning job_id
), tally as materialized (
    select count(*) = %(wanted)s::int as complete from taken
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at{columns})
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           headers, %(history)s::bool, statement_timestamp(),
           coalesce(%(expires)s::timestamptz, statement_timestamp() + make_interval(secs => %(ttl)s::float8)){values}
    from given
    where (select complete from tally) or key is null or id in (select job_id from taken)
), logged as (
    insert into {s}.transition (job_id, to_state) select id, {state} from given
    where %(history)s::bool and ((select complete from tally) or key is null or id in (select job_id from taken))
)
select array_agg(id order by ord),
    case when not (select complete from tally) then array(select job_id from taken) end,
    case when min(run_at) <= statement_timestamp()
        and {worker_sleeps}
        then pg_notify({channel}, %(queue)s::text) end
from given""",
    worker_sleeps=WORKER_SLEEPS,
)
ENQUEUE_MANY_KEYED: LiteralString = fill(_MANY_KEYED, **PLAIN)
ENQUEUE_MANY_KEYED_METERED: LiteralString = fill(_MANY_KEYED, **_METERED)


class KeyedIds(NamedTuple):
    """The ids drawn for jobs, in their order, and those of the jobs that got their keys; None if all of them did."""

    ids: list[int]
    taken: set[int] | None


class KeyedQueries(EnqueueQueries):
    """Inserting jobs with idempotency keys."""

    def enqueue_one_keyed(self, job: NewJob, *, read_committed_only: bool = False) -> Query[list[AdmissionResult]]:
        """Insert a job, if it gets its key; `read_committed_only` as in `enqueue_conditionally`."""
        conditions = conditions_of(job)
        params = {
            **self.enqueue_one(job).params,
            "headers": with_own(keyed_headers(job), job),
            "key": conditions.key_hash,
            "compared": self.codec is None,
            "window": conditions.window,
            "read_committed_only": read_committed_only,
            **_expiry(conditions.expires),
        }
        template = ENQUEUE_ONE_KEYED if job.flow is None else ENQUEUE_ONE_KEYED_METERED
        return Query(self._sql(template), lambda rows: [AdmissionResult(*row[:5]) for row in rows], params)

    def enqueue_many_keyed(
        self, job: NewJob, args: str, keys: Sequence[str | None], headers: str, *, metered: bool = False
    ) -> Query[KeyedIds]:
        """Insert jobs that are like `job` but for their arguments, keys and headers, as far as they get their keys.

        Arguments and headers are JSON arrays, the arguments as they are to be stored. No two have the same key. All are
        `metered`, or none is.
        """
        conditions = conditions_of(job)
        params: dict[str, Any] = {
            **shared_params(job, args),
            "headers": headers,
            "keys": sparse(keys),
            "wanted": len(keys) - keys.count(None),
            "compared": self.codec is None,
            "window": conditions.window,
            **_expiry(conditions.expires),
        }
        template = ENQUEUE_MANY_KEYED_METERED if metered else ENQUEUE_MANY_KEYED
        return Query(self._sql(template), _keyed_ids, params)


def _keyed_ids(rows: Sequence[Row]) -> KeyedIds:
    ids, taken, _ = rows[0]
    return KeyedIds(list(ids), None if taken is None else set(taken))


def _expiry(expires: datetime | float | None) -> dict[str, Any]:
    if isinstance(expires, datetime):
        return {"expires": expires.astimezone(UTC).isoformat(), "ttl": None}
    return {"expires": None, "ttl": expires}
