"""Putting in jobs with terms: keys that admit one, and an end to their waiting. Plain jobs go by `enqueue`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString

from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.queries.base import Query, lines, packed
from pgqueue.queries.jobs.enqueue import AdmissionResult, EnqueueQueries, conditions_of, header

# As ENQUEUE (what it says of ids, notifications and delays holds here too), but a job is let in only if it gets its
# keys. A key is an insert that does nothing where the key is taken. It waits for a transaction that has just taken it:
# when that commits this job is not let in, when that rolls back it is. So a key is never taken twice, nor by nobody.
# Nothing here can fail for a key, and so abort the caller's transaction, but in one case: a transaction that keeps its
# snapshot meets a key it cannot see. Hence `guarded`: such a transaction gets no row at all, and comes again inside a
# savepoint.
# The naive forms: to look for the key and then insert, which two can do at once; a unique violation that is caught,
# which aborts the transaction; `on conflict do update`, which locks the key until the end of whoever only asked.
# Who was not let in asks again by FIND_KEY_HOLDERS or FIND_UNIQUE_HOLDERS: this statement's snapshot is older than what
# it waited for. Two batches cannot deadlock on their keys, for jobs come sorted by them. The primary key of
# idempotency_key and job_live_unique are the arbiters; `in (…)` beside another condition stays a hashed subplan, where
# a join of two CTEs whose size the planner does not know would compare each with each. An array of nulls only is left
# empty: unnest fills it up. Sealed arguments are not compared, for a hash of them would help to guess them: that a key
# stands for one request only is then for callers to see to (`compared`).
_GIVEN: LiteralString = """
with given as materialized (
    select nextval('{s}.job_id') as id, g.ord, g.task, g.queue, g.priority, g.args::jsonb as args, g.max_attempts,
           g.tags, g.headers, g.history, g.key::uuid as key, g.span, decode(g.uniq, 'hex') as uniq,
           case when g.uniq is not null then g.live end as live,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.lasts)) as expires_at
    from unnest(string_to_array(%(tasks)s, E'\n'), string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[], %(run_ats)s::timestamptz[],
                %(delays)s::float8[], string_to_array(%(tags)s, E'\n', ''), string_to_array(%(headers)s, E'\n', ''),
                %(histories)s::bool[], string_to_array(%(keys)s, E'\n', ''), %(spans)s::float8[],
                string_to_array(%(uniques)s, E'\n', ''), %(lives)s::bool[], %(expires)s::timestamptz[],
                %(lasts)s::float8[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers, history, key,
                              span, uniq, live, expires, lasts, ord)
    where not %(guarded)s::bool or current_setting('transaction_isolation') like 'read %%'
)"""

_TAKEN: LiteralString = """, taken as (
    insert into {s}.idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + make_interval(secs => span)
    from given where key is not null order by ord on conflict do nothing returning job_id
)"""

_NO_KEYS: LiteralString = ", taken as (select null::bigint as job_id where false)"

_INSERTED: LiteralString = """, admitted as materialized (
    select * from given where key is null or id in (select job_id from taken)
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              unique_key, unique_live, expires_at)
    select id, task, queue, priority, args, max_attempts, run_at, coalesce(tags::text[], '{{}}'),
           coalesce(headers::jsonb, '{{}}'), history, statement_timestamp(), uniq, live, expires_at
    from admitted order by ord"""

_ALL_ENTER: LiteralString = "), entered as (select id, queue, run_at, history from admitted)"

_ONE_ENTERS: LiteralString = """ on conflict do nothing returning id, queue, run_at, history
), entered as (select id, queue, run_at, history from inserted)"""

_TOLD: LiteralString = """, logged as (
    insert into {s}.transition (job_id, to_state) select id, 'pending' from entered where history
), woken as (
    select count(pg_notify({channel}, due.queue)) as calls
    from (select distinct queue from entered where run_at <= statement_timestamp()) as due
    where exists (select from {s}.worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5
)
select given.id, given.run_at, statement_timestamp(), given.id in (select id from entered),
       given.id in (select job_id from taken)
from given, woken order by given.ord"""

# What is used is asked for, and no more: a producer needs no right to a table that its jobs have nothing to do with.
ENQUEUE_CONDITIONALLY: dict[tuple[bool, bool], LiteralString] = {
    (keys, unique): _GIVEN
    + (_TAKEN if keys else _NO_KEYS)
    + _INSERTED
    + (_ONE_ENTERS if unique else _ALL_ENTER)
    + _TOLD
    for keys in (False, True)
    for unique in (False, True)
}

# Give jobs that have not started the arguments, times and options of new ones. Waits for a claim in flight, and looks
# again: what has started meanwhile is left alone, and missing from what comes back. No claim takes a job while a
# transaction that has replaced it is open. By primary key. Nobody moves, but it is logged.
REPLACE: LiteralString = """
with given as materialized (
    select g.id, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.lasts)) as expires_at
    from unnest((select %(ids)s::bigint[]), (select string_to_array(%(queues)s, E'\n')),
                (select %(priorities)s::smallint[]), (select string_to_array(%(args)s, E'\n')),
                (select %(max_attempts)s::int[]), (select %(run_ats)s::timestamptz[]), (select %(delays)s::float8[]),
                (select string_to_array(%(tags)s, E'\n', '')), (select string_to_array(%(headers)s, E'\n', '')),
                (select %(expires)s::timestamptz[]), (select %(lasts)s::float8[]))
         as g(id, queue, priority, args, max_attempts, run_at, delay, tags, headers, expires, lasts)
), changed as (
    update {s}.job_live j
    set queue = g.queue, priority = g.priority, args = g.args::jsonb, max_attempts = g.max_attempts, run_at = g.run_at,
        tags = coalesce(g.tags::text[], '{{}}'), headers = coalesce(g.headers::jsonb, '{{}}'),
        expires_at = g.expires_at
    from given g where j.id = any(array[g.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    returning j.id, j.queue, j.run_at, j.state, j.lease, j.history
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, lease, reason)
    select id, state, state, lease, 'replaced' from changed where history
), woken as (
    select count(pg_notify({channel}, due.queue)) as calls
    from (select distinct queue from changed where run_at <= statement_timestamp()) as due
    where exists (select from {s}.worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5
)
select changed.id from changed, woken"""


class ConditionalQueries(EnqueueQueries):
    """Putting in jobs with terms."""

    def enqueue_conditionally(
        self, jobs: Sequence[NewJob], headers: Sequence[str | None] | None = None, *, guarded: bool = False
    ) -> Query[list[AdmissionResult]]:
        """Insert the jobs that get their keys; all come back in the order given. No two may want the same key.

        `guarded`: nothing is done, and no row comes back, in a transaction that keeps its snapshot.
        """
        told = [conditions_of(job) for job in jobs]
        keys, uniques = [conditions.key_hash for conditions in told], [conditions.unique_hash for conditions in told]
        params = self.enqueue(jobs, headers or _headers(told)).params
        params |= _expiry(told) | {  # type: ignore[operator]  # enqueue() has made it a dict
            "guarded": guarded,
            "keys": lines(keys) if any(keys) else "",
            "spans": packed([conditions.window for conditions in told]) if any(keys) else "{}",
            "uniques": lines(uniques) if any(uniques) else "",
            "lives": packed([conditions.while_live for conditions in told]) if any(uniques) else "{}",
        }
        if any(keys):
            params["compared"] = self.codec is None
        template = ENQUEUE_CONDITIONALLY[any(keys), any(uniques)]
        return Query(self._sql(template), lambda rows: [AdmissionResult(*row) for row in rows], params)

    def replace(self, ids: Sequence[int], jobs: Sequence[NewJob]) -> Query[set[int]]:
        """Give the jobs with these ids what new ones have, where they have not started; returns the ids of those."""
        told = [conditions_of(job) for job in jobs]
        params = dict(self.enqueue(jobs, _headers(told)).params)
        del params["tasks"], params["histories"]
        params |= _expiry(told) | {"ids": packed(ids)}
        return Query(self._sql(REPLACE), lambda rows: {row[0] for row in rows}, params)


def _headers(told: Sequence[Conditions]) -> list[str | None]:
    return [header(conditions) for conditions in told]


def _expiry(told: Sequence[Conditions]) -> dict[str, Any]:
    times = [conditions.expires for conditions in told]
    if not any(times):
        return {"expires": "{}", "lasts": "{}"}
    return {
        "expires": packed([t.astimezone(UTC).isoformat() if isinstance(t, datetime) else None for t in times]),
        "lasts": packed([t if isinstance(t, float) else None for t in times]),
    }
