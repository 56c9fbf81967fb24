"""Putting in jobs with terms: keys that admit one, and an end to their waiting. Plain jobs go by `enqueue`."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job import NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.queries.base import Query, first_value, lines, nothing, packed
from pgqueue.queries.depth import DEPTH, EXACT_DEPTH, SAMPLED_DEPTH
from pgqueue.queries.enqueue import EnqueueQueries, Inserted

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

# Whom do taken keys belong to? By primary key, one probe a key: the subselects hide how long the arrays are. Also says
# whether this role may read jobs, so that nobody has to try and fail.
FIND_KEY_HOLDERS: LiteralString = """
select g.ord, k.job_id, k.created_at,
       coalesce(k.request = hashtextextended(g.args::jsonb::text collate "C", 0), true) or not %(compared)s::bool,
       k.expires_at <= statement_timestamp(), has_table_privilege(format('%%I.job', {channel}), 'select')
       and has_table_privilege(format('%%I.attempt', {channel}), 'select')
from unnest((select string_to_array(%(keys)s, E'\n', '')), (select string_to_array(%(args)s, E'\n')))
     with ordinality as g(key, args, ord)
join {s}.idempotency_key k on k.key = any(array[g.key::uuid])"""

# Whose are these unique keys? By job_live_unique. A job that a worker has taken once counts as started, though it may
# wait again. One that has expired is over: it will never run, and whoever was told that it is there would have nothing.
# LIMIT keeps it a probe a key: a join could as well walk through this index, which is partial, from end to end.
FIND_UNIQUE_HOLDERS: LiteralString = """
select g.ord, j.id, j.created_at, j.attempt > 0,
       coalesce(j.expires_at <= statement_timestamp() and j.attempt = 0, false),
       has_table_privilege(format('%%I.job', {channel}), 'select')
       and has_table_privilege(format('%%I.attempt', {channel}), 'select')
from unnest((select string_to_array(%(uniques)s, E'\n'))) with ordinality as g(uniq, ord)
cross join lateral (
    select id, created_at, attempt, expires_at from {s}.job_live where unique_key = decode(g.uniq, 'hex') limit 1
) as j"""

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

# Free keys whose time is over, for those who want them now. Waits for others that do the same, and then finds nothing.
# By primary key, a probe for each in the order given: so that two of these do not wait for each other in a circle.
FREE_KEYS: LiteralString = """
delete from {s}.idempotency_key k
using unnest((select string_to_array(%(keys)s, E'\n', ''))) as g(key)
where k.key = any(array[g.key::uuid]) and k.expires_at <= statement_timestamp()"""

# Free the unique keys of jobs that have expired and are not swept away yet. Waits for a sweeper that is at it, and then
# finds nothing. A probe for each in the order given, as FREE_KEYS. By job_live_unique, and not by job_live_expires: the
# zeros hide that this index has all such jobs.
FREE_UNIQUE_KEYS: LiteralString = """
with over as materialized (
    select held.id from unnest((select string_to_array(%(uniques)s, E'\n'))) as g(uniq)
    cross join lateral (
        select id from {s}.job_live
        where unique_key = decode(g.uniq, 'hex') and attempt + 0 = 0
        and expires_at + interval '0' <= statement_timestamp() limit 1 for update
    ) as held
)
update {s}.job_live j set unique_key = null
from over where j.id = any(array[over.id]) and j.attempt = 0 and j.expires_at <= statement_timestamp()"""

# Give back the keys that jobs took which then were not let in for another reason, in the transaction that took them.
GIVE_BACK_KEYS: LiteralString = """
delete from {s}.idempotency_key k
using unnest((select string_to_array(%(keys)s, E'\n', '')), (select %(ids)s::bigint[])) as g(key, id)
where k.key = any(array[g.key::uuid]) and k.job_id = g.id"""


NO_CONDITIONS = Conditions()
_text = json.JSONEncoder().encode

# Begins a transaction, where one is begun by its first statement.
BEGIN: LiteralString = "select"


class Entry(NamedTuple):
    """What became of a job: whether it was let in, and whether it has taken its key in idempotency_key.

    Of one that met another: that one, and whether the caller's role may read it.
    """

    id: int
    run_at: datetime
    created_at: datetime
    entered: bool
    took: bool
    readable: bool = True

    @property
    def inserted(self) -> Inserted:
        """What the database decided about it."""
        return Inserted(self.id, self.run_at, self.created_at)


class KeyHolder(NamedTuple):
    """A taken key: which of those asked for (from 1), the job it admitted, whether that had the same arguments."""

    ord: int
    job_id: int
    created_at: datetime
    same: bool
    over: bool
    readable: bool


class UniqueHolder(NamedTuple):
    """A job with a unique key: whose of those asked for (from 1), and whether it has started, or expired."""

    ord: int
    job_id: int
    created_at: datetime
    started: bool
    over: bool
    readable: bool


class ConditionalQueries(EnqueueQueries):
    """Putting in jobs with terms."""

    def enqueue_conditionally(
        self, jobs: Sequence[NewJob], headers: Sequence[str | None] | None = None, *, guarded: bool = False
    ) -> Query[list[Entry]]:
        """Insert the jobs that get their keys; all come back in the order given. No two may want the same key.

        `guarded`: nothing is done, and no row comes back, in a transaction that keeps its snapshot.
        """
        told = [conditions_of(job) for job in jobs]
        keys, uniques = [conditions.hash for conditions in told], [conditions.alone for conditions in told]
        params = self.enqueue(jobs, headers or _headers(told)).params
        params |= _expiry(told) | {  # type: ignore[operator]  # enqueue() has made it a dict
            "guarded": guarded,
            "keys": lines(keys) if any(keys) else "",
            "spans": packed([conditions.window for conditions in told]) if any(keys) else "{}",
            "uniques": lines(uniques) if any(uniques) else "",
            "lives": packed([conditions.live for conditions in told]) if any(uniques) else "{}",
        }
        if any(keys):
            params["compared"] = self.codec is None
        template = ENQUEUE_CONDITIONALLY[any(keys), any(uniques)]
        return Query(self._sql(template), lambda rows: [Entry(*row) for row in rows], params)

    def find_key_holders(self, jobs: Sequence[NewJob]) -> Query[list[KeyHolder]]:
        """Whom the keys of these jobs, each of which has one, belong to."""
        params = _hashes(jobs) | {"args": lines([job.args for job in jobs]), "compared": self.codec is None}
        return Query(self._sql(FIND_KEY_HOLDERS), lambda rows: [KeyHolder(*row) for row in rows], params)

    def find_unique_holders(self, jobs: Sequence[NewJob]) -> Query[list[UniqueHolder]]:
        """Who has the unique keys of these jobs, each of which has one."""
        return Query(self._sql(FIND_UNIQUE_HOLDERS), lambda rows: [UniqueHolder(*row) for row in rows], _uniques(jobs))

    def replace(self, ids: Sequence[int], jobs: Sequence[NewJob]) -> Query[set[int]]:
        """Give the jobs with these ids what new ones have, where they have not started; returns the ids of those."""
        told = [conditions_of(job) for job in jobs]
        params = dict(self.enqueue(jobs, _headers(told)).params)
        del params["tasks"], params["histories"]
        params |= _expiry(told) | {"ids": packed(ids)}
        return Query(self._sql(REPLACE), lambda rows: {row[0] for row in rows}, params)

    def free_keys(self, jobs: Sequence[NewJob]) -> Query[None]:
        """Free the keys of these jobs where their time is over."""
        return Query(self._sql(FREE_KEYS), nothing, _hashes(jobs))

    def free_unique_keys(self, jobs: Sequence[NewJob]) -> Query[None]:
        """Free the unique keys of these jobs where the ones that have them have expired."""
        return Query(self._sql(FREE_UNIQUE_KEYS), nothing, _uniques(jobs))

    def give_back_keys(self, ids: Sequence[int], jobs: Sequence[NewJob]) -> Query[None]:
        """Free the keys of these jobs that were taken under these ids."""
        return Query(self._sql(GIVE_BACK_KEYS), nothing, _hashes(jobs) | {"ids": packed(ids)})

    def depth(self, queue: str, limit: int) -> Query[int]:
        """How many jobs wait in a queue, exactly up to EXACT_DEPTH; not much further than `limit` is counted."""
        template = DEPTH if limit <= EXACT_DEPTH else SAMPLED_DEPTH
        return Query(self._sql(template), first_value, {"queue": queue, "limit": limit})

    def begin(self) -> Query[None]:
        """Do nothing, but begin a transaction where none is begun."""
        return Query(BEGIN.encode(), nothing)


def conditions_of(job: NewJob) -> Conditions:
    """The terms of a job; of one that asks for nothing, none of them."""
    return job.conditions or NO_CONDITIONS


def header(conditions: Conditions) -> str | None:
    """What a job carries of its key, as JSON text."""
    return None if conditions.key is None else f'{{"idempotency_key": {_text(conditions.key)}}}'


def _headers(told: Sequence[Conditions]) -> list[str | None]:
    return [header(conditions) for conditions in told]


def _hashes(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {"keys": lines([conditions_of(job).hash for job in jobs])}


def _uniques(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {"uniques": lines([conditions_of(job).alone for job in jobs])}


def _expiry(told: Sequence[Conditions]) -> dict[str, Any]:
    times = [conditions.expires for conditions in told]
    if not any(times):
        return {"expires": "{}", "lasts": "{}"}
    return {
        "expires": packed([t.astimezone(UTC).isoformat() if isinstance(t, datetime) else None for t in times]),
        "lasts": packed([t if isinstance(t, float) else None for t in times]),
    }
