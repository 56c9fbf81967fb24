"""Keys of jobs: which jobs hold them, and how they become free again."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Query, Row, Statements, lines, nothing, packed, start_of
from pgqueue.queries.jobs.enqueue import conditions_of

# Find the jobs that hold idempotency keys. By primary key, one probe a key: the subselects hide from the planner how
# long the arrays are. Also tells whether this role may read jobs, so that the caller does not have to try and fail.
FIND_KEY_HOLDERS: LiteralString = r"""
select g.ord, k.job_id, k.created_at,
       coalesce(k.request = hashtextextended(g.args::jsonb::text collate "C", 0), true) or not %(compared)s::bool,
       k.expires_at <= statement_timestamp(), has_table_privilege(format('%%I.job', {channel}), 'select')
       and has_table_privilege(format('%%I.attempt', {channel}), 'select')
from unnest((select string_to_array(%(keys)s, E'\n', '')), (select string_to_array(%(args)s, E'\n')))
     with ordinality as g(key, args, ord)
join {s}.idempotency_key k on k.key = any(array[g.key::uuid])"""

# Find the jobs that hold unique keys. By job_live_unique. A job that a worker has claimed once counts as started,
# though it may wait again. A job that has expired will never run, so it must not be returned to a caller as the one
# that does the work. The `limit` keeps this a probe a key: a join might walk through this index, which is partial, from
# end to end.
FIND_UNIQUE_HOLDERS: LiteralString = r"""
select g.ord, j.id, j.created_at, j.attempt > 0,
       coalesce(j.expires_at <= statement_timestamp() and j.attempt = 0, false),
       has_table_privilege(format('%%I.job', {channel}), 'select')
       and has_table_privilege(format('%%I.attempt', {channel}), 'select')
from unnest((select string_to_array(%(unique_hashes)s, E'\n'))) with ordinality as g(unique_hash, ord)
cross join lateral (
    select id, created_at, attempt, expires_at from {s}.job_live where unique_key = decode(g.unique_hash, 'hex') limit 1
) as j"""

# Free idempotency keys whose window has ended, for a caller that wants them now. The statement waits for another that
# frees the same keys, and then finds nothing. By primary key. `expired` locks one key after the other in the order
# given, so that two of these statements do not wait for each other in a circle. The naive form, a join alone, is turned
# round where the planner believes that few windows have ended; then keys are locked in the order of the table.
FREE_EXPIRED_KEYS: LiteralString = r"""
with expired as materialized (
    select held.key from unnest((select string_to_array(%(keys)s, E'\n', ''))) as g(key)
    cross join lateral (
        select key from {s}.idempotency_key
        where key = any(array[g.key::uuid]) and expires_at <= statement_timestamp() for update
    ) as held
)
delete from {s}.idempotency_key k using expired
where k.key = any(array[expired.key]) and k.expires_at <= statement_timestamp()"""

# Free the unique keys of jobs that have expired and that no sweeper has ended yet. The statement waits for a sweeper
# that ends the job right now, and then finds nothing. A probe for each key in the order given, as in FREE_EXPIRED_KEYS.
# By job_live_unique, and not by job_live_expires: the added zeros hide from the planner that the latter index holds all
# jobs that the condition fits.
FREE_EXPIRED_UNIQUE_KEYS: LiteralString = r"""
with expired as materialized (
    select held.id from unnest((select string_to_array(%(unique_hashes)s, E'\n'))) as g(unique_hash)
    cross join lateral (
        select id from {s}.job_live
        where unique_key = decode(g.unique_hash, 'hex') and attempt + 0 = 0
        and expires_at + interval '0' <= statement_timestamp() limit 1 for update
    ) as held
)
update {s}.job_live j set unique_key = null
from expired where j.id = any(array[expired.id]) and j.attempt = 0 and j.expires_at <= statement_timestamp()"""

# Give back the idempotency keys of jobs that took them and were then not inserted, because another job holds their
# unique key. Runs in the transaction that took the keys.
GIVE_BACK_KEYS: LiteralString = r"""
delete from {s}.idempotency_key k
using unnest((select string_to_array(%(keys)s, E'\n', '')), (select %(ids)s::bigint[])) as g(key, id)
where k.key = any(array[g.key::uuid]) and k.job_id = g.id"""

# Take idempotency keys whose window has ended. The transaction holds the keys that come back: no other can take them,
# and inserting them waits for nobody. The transaction holds other keys already, so this statement must not wait: two
# transactions that wait each for a key of the other never end. A key that another transaction has locked to free it, or
# has freed, is missing from what comes back. The subselect runs once, and Postgres checks the row again when it locks
# it. By primary key.
TAKE_EXPIRED_KEYS: LiteralString = """
with expired as materialized (
    select k.key from unnest((select %(keys)s::uuid[])) as g(key)
    join {s}.idempotency_key k on k.key = any(array[g.key])
    where k.expires_at <= statement_timestamp() for update of k skip locked
)
delete from {s}.idempotency_key k using expired where k.key = any(array[expired.key]) returning k.key"""

# Delete a small batch of idempotency keys whose window has ended. It may be late: a key is free from that moment on,
# and an enqueue that wants it frees it. Keys that another transaction has locked are skipped.
# An index of all end times would make each keyed enqueue a tenth slower. idempotency_key_sample holds one key in 16:
# the first one whose window has ended, from `after` on as in EXPIRE, tells in which page of the table to look. Rows
# stand in the order in which they came, a hundred in a page, so keys whose windows have ended stand together. The
# statement reads a few whole pages, beginning with the page before: that includes the keys which came after the last
# sampled one there. A few keys in pages without a sampled one may stay, until the window of one near them ends. The
# naive form, to walk through all keys, reads each of them again and again. Pages are read by their numbers (a Tid Range
# Scan), which must be known before the scan: hence the subselects.
PRUNE_KEYS: LiteralString = """
with sample as materialized (
    select o.expires_at, (o.ctid::text::point)[0]::bigint as page from {s}.idempotency_key o
    where o.expires_at >= %(after)s::timestamptz and o.expires_at <= now() and o.job_id %% 16::bigint = 0
    order by o.expires_at limit 1
), expired as materialized (
    select k.key from {s}.idempotency_key k
    where k.ctid >= (select format('(%%s,0)', greatest(page - 1, 0))::tid from sample)
    and k.ctid < (select format('(%%s,0)', page + %(pages)s)::tid from sample)
    and k.expires_at <= now() for update skip locked
), pruned as (
    delete from {s}.idempotency_key k using expired
    where k.key = any(array[expired.key]) and k.expires_at <= now() returning k.job_id
)
select greatest(sample.expires_at, '0001-01-01Z'), (select count(*) from pruned) from sample"""


class KeyHolder(NamedTuple):
    """A taken idempotency key: its position among those asked for (from 1), the job that holds it, whether that job has
    the same arguments, whether the window has ended, and whether this role may read jobs."""

    ord: int
    job_id: int
    created_at: datetime
    same_args: bool
    expired: bool
    readable: bool


class UniqueHolder(NamedTuple):
    """A job that holds a unique key: the key's position among those asked for (from 1), whether the job has started or
    expired, and whether this role may read jobs."""

    ord: int
    job_id: int
    created_at: datetime
    started: bool
    expired: bool
    readable: bool


class PrunedKeys(NamedTuple):
    """How many keys were deleted, near one whose window ended at that time."""

    at: datetime
    deleted: int


class KeyQueries(Statements):
    """Finding, freeing and taking keys of jobs."""

    def find_key_holders(self, jobs: Sequence[NewJob]) -> Query[list[KeyHolder]]:
        """Find the jobs that hold the idempotency keys of these jobs, each of which has one."""
        # Sealed arguments are not compared, so they are not sent either: what a statement has, the server may log.
        args = [job.args if self.codec is None else "{}" for job in jobs]
        params = _hashes(jobs) | {"args": lines(args), "compared": self.codec is None}
        return Query(self._sql(FIND_KEY_HOLDERS), lambda rows: [KeyHolder(*row) for row in rows], params)

    def find_key_holder(self, key: str) -> Query[KeyHolder | None]:
        """Find the job that holds one idempotency key, given as it is stored."""
        params = {"keys": lines([key]), "args": lines(["{}"]), "compared": False}
        return Query(self._sql(FIND_KEY_HOLDERS), lambda rows: KeyHolder(*rows[0]) if rows else None, params)

    def find_unique_holders(self, jobs: Sequence[NewJob]) -> Query[list[UniqueHolder]]:
        """Find the jobs that hold the unique keys of these jobs, each of which has one."""
        return Query(self._sql(FIND_UNIQUE_HOLDERS), lambda rows: [UniqueHolder(*row) for row in rows], _uniques(jobs))

    def free_expired_keys(self, jobs: Sequence[NewJob]) -> Query[None]:
        """Free the idempotency keys of these jobs whose windows have ended."""
        return Query(self._sql(FREE_EXPIRED_KEYS), nothing, _hashes(jobs))

    def free_expired_unique_keys(self, jobs: Sequence[NewJob]) -> Query[None]:
        """Free the unique keys of these jobs where the jobs that hold them have expired."""
        return Query(self._sql(FREE_EXPIRED_UNIQUE_KEYS), nothing, _uniques(jobs))

    def give_back_keys(self, ids: Sequence[int], jobs: Sequence[NewJob]) -> Query[None]:
        """Free the idempotency keys of these jobs that were taken under these ids."""
        return Query(self._sql(GIVE_BACK_KEYS), nothing, _hashes(jobs) | {"ids": packed(ids)})

    def take_expired_keys(self, keys: Sequence[str]) -> Query[int]:
        """Take those of the keys whose windows have ended, without waiting; returns how many were taken."""
        return Query(self._sql(TAKE_EXPIRED_KEYS), len, {"keys": packed(keys)})

    def prune_keys(self, pages: int, after: datetime | None = None) -> Query[PrunedKeys | None]:
        """Delete idempotency keys whose windows have ended, from so many pages and one; None if it finds none."""
        return Query(self._sql(PRUNE_KEYS), _pruned, {"pages": pages, "after": start_of(after)})


def _hashes(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {"keys": lines([conditions_of(job).key_hash for job in jobs])}


def _uniques(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {"unique_hashes": lines([conditions_of(job).unique_hash for job in jobs])}


def _pruned(rows: Sequence[Row]) -> PrunedKeys | None:
    return PrunedKeys(*rows[0]) if rows else None
