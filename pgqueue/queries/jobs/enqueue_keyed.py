"""Putting in jobs with idempotency keys: one, or many of one call that differ in their arguments and keys alone."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Query, packed
from pgqueue.queries.jobs.enqueue import AdmissionResult, EnqueueQueries, conditions_of, header
from pgqueue.tasks.versions import with_version

# What ENQUEUE_MANY is to ENQUEUE this is to ENQUEUE_CONDITIONALLY, and promises what both do: who gets its key is let
# in, in the same statement; who does not has written nothing. Arguments and headers come as JSON arrays, keys as an
# array of uuids; the same job may come without a key.
# Keys are taken in their order, whatever the order of the jobs, and each is waited for that another transaction has
# just taken: two of these cannot deadlock. A key whose time is over is left as it is, for TAKE_EXPIRED_KEYS.
# Whether all got their keys is asked once (`everyone`). Only if not, it is looked up for each job: a hashed subplan,
# for the conditions are joined by `or`. The naive form, `where id in (select …)` alone, costs half a microsecond a job.
# The answer is one row of arrays: all ids in the order of the jobs, and if some of them were not let in, those that
# were. Who was not asks by FIND_KEY_HOLDERS: this statement's snapshot is older than what it waited for.
_RUN_AT: LiteralString = """
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at"""

_TAKEN: LiteralString = """
), taken as (
    insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + make_interval(secs => %(span)s::float8)
    from given where key is not null order by key on conflict do nothing returning job_id
)"""

_INSERTED: LiteralString = """, inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at)
    select id, %(task)s, %(queue)s, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           headers, %(history)s::bool, statement_timestamp(),
           coalesce(%(expires)s::timestamptz, statement_timestamp() + make_interval(secs => %(lasts)s::float8))
    from given"""

_WOKEN: LiteralString = """ <= statement_timestamp()
            and exists (select from {s}.worker w where w.waiting and %(queue)s = any(w.queues))
            and pg_notification_queue_usage() < 0.5
            then pg_notify({channel}, %(queue)s) end
from given"""

_LET_IN: LiteralString = "((select got_theirs from everyone) or key is null or id in (select job_id from taken))"

ENQUEUE_MANY_KEYED: LiteralString = (
    """
with given as materialized (
    select nextval('{s}.job_id') as id, g.args, g.headers, g.key, g.ord,"""
    + _RUN_AT
    + """
    from rows from (jsonb_array_elements(%(args)s::jsonb), jsonb_array_elements(%(headers)s::jsonb),
                    unnest(%(keys)s::uuid[])) with ordinality as g(args, headers, key, ord)"""
    + _TAKEN
    + """, everyone as materialized (
    select count(*) = %(wanted)s::int as got_theirs from taken
)"""
    + _INSERTED
    + " where "
    + _LET_IN
    + """
), logged as (
    insert into {s}.transition (job_id, to_state) select id, 'pending' from given where %(history)s::bool and """
    + _LET_IN
    + """
)
select array_agg(id order by ord),
       case when not (select got_theirs from everyone) then array(select job_id from taken) end,
       case when min(run_at)"""
    + _WOKEN
)

# One job with an idempotency key and no unique one: what ENQUEUE_ONE is to ENQUEUE, and promises what
# ENQUEUE_CONDITIONALLY does. That one spends most of its time on sixteen arrays of one item each.
ENQUEUE_ONE_KEYED: LiteralString = (
    """
with given as materialized (
    select nextval('{s}.job_id') as id, %(args)s::jsonb as args, %(headers)s::jsonb as headers,
           %(key)s::uuid as key,"""
    + _RUN_AT
    + """
    where not %(guarded)s::bool or current_setting('transaction_isolation') like 'read %%'"""
    + _TAKEN
    + _INSERTED
    + """, taken
), logged as (
    insert into {s}.transition (job_id, to_state) select job_id, 'pending' from taken where %(history)s::bool
)
select id, run_at, statement_timestamp(), job_id is not null, job_id is not null,
       case when job_id is not null and run_at"""
    + _WOKEN
    + " left join taken on true"
)


class KeyedIds(NamedTuple):
    """Ids drawn for jobs, in their order; and those of them whose key was taken, None if all got theirs."""

    ids: list[int]
    taken: set[int] | None


class KeyedQueries(EnqueueQueries):
    """Putting in jobs with idempotency keys."""

    def enqueue_one_keyed(self, job: NewJob, *, guarded: bool = False) -> Query[list[AdmissionResult]]:
        """Insert a job, which has a key, if it gets that; `guarded` as in `enqueue_conditionally`."""
        conditions = conditions_of(job)
        params = {
            **self.enqueue_one(job).params,
            "headers": with_version(header(conditions), job.version),
            "key": conditions.key_hash,
            "compared": self.codec is None,
            "span": conditions.window,
            "guarded": guarded,
            **_expiry(conditions.expires),
        }
        return Query(self._sql(ENQUEUE_ONE_KEYED), lambda rows: [AdmissionResult(*row[:5]) for row in rows], params)

    def enqueue_many_keyed(self, job: NewJob, args: str, keys: Sequence[str | None], headers: str) -> Query[KeyedIds]:
        """Insert jobs that are like `job` but for their arguments, keys and headers, as far as they get their keys.

        Arguments and headers are JSON arrays, the arguments as they are to be stored. No two have the same key.
        """
        conditions = conditions_of(job)
        params: dict[str, Any] = {
            **self.enqueue_many(job, args).params,
            "headers": headers,
            "keys": packed(keys),
            "wanted": len(keys) - keys.count(None),
            "compared": self.codec is None,
            "span": conditions.window,
            **_expiry(conditions.expires),
        }
        return Query(self._sql(ENQUEUE_MANY_KEYED), _keyed, params)


def _keyed(rows: Sequence[tuple[Any, ...]]) -> KeyedIds:
    ids, taken, _ = rows[0]
    return KeyedIds(list(ids), None if taken is None else set(taken))


def _expiry(expires: datetime | float | None) -> dict[str, Any]:
    if isinstance(expires, datetime):
        return {"expires": expires.astimezone(UTC).isoformat(), "lasts": None}
    return {"expires": None, "lasts": expires}
