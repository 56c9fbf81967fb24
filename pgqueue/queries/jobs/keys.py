"""Keys that admit one job: who has them, and how they become free."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.jobs.job import NewJob
from pgqueue.queries.base import Query, Row, Statements, lines, nothing, packed, start_of
from pgqueue.queries.jobs.enqueue import conditions_of

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

# Free keys whose time is over, for those who want them now. Waits for others that do the same, and then finds nothing.
# By primary key, a probe for each in the order given: so that two of these do not wait for each other in a circle.
FREE_EXPIRED_KEYS: LiteralString = """
delete from {s}.idempotency_key k
using unnest((select string_to_array(%(keys)s, E'\n', ''))) as g(key)
where k.key = any(array[g.key::uuid]) and k.expires_at <= statement_timestamp()"""

# Free the unique keys of jobs that have expired and are not swept away yet. Waits for a sweeper that is at it, and then
# finds nothing. A probe for each in the order given, as FREE_EXPIRED_KEYS. By job_live_unique, and not by
# job_live_expires: the zeros hide that this index has all such jobs.
FREE_EXPIRED_UNIQUE_KEYS: LiteralString = """
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

# Take keys whose time is over, so that nobody else can: what comes back is ours, and to insert it waits for nobody.
# Other keys are held already by then, so this must not wait: two that did so, each for what the other holds, would
# never end. What somebody else is about to free, or has freed, is missing from what comes back. The subselect is run
# once, and the row is looked at again when it is locked. By primary key.
TAKE_EXPIRED_KEYS: LiteralString = """
with over as materialized (
    select k.key from unnest((select %(keys)s::uuid[])) as g(key)
    join {s}.idempotency_key k on k.key = any(array[g.key])
    where k.expires_at <= statement_timestamp() for update of k skip locked
)
delete from {s}.idempotency_key k using over where k.key = any(array[over.key]) returning k.key"""

# Delete idempotency keys whose window is over, a small batch. Nobody minds that one is still there: it is free from
# the moment on, and who wants it frees it. Keys that somebody is about to free are skipped.
# An index of all times would make each keyed enqueue a tenth dearer. idempotency_key_sample has one key in 16: the
# first that is over, from `after` on as EXPIRE does, says in which page of the table to look. Rows stand there in the
# order in which they came, a hundred in a page, so what is over stands together. A few pages are read to their ends,
# from the one before on: that takes along those that came after the last sampled one there. What may stay are a few
# keys in pages without a sampled one, until one near them is over. The naive form, to walk through all keys, reads each
# of them over and over. The pages are read by their numbers (a Tid Range Scan), for which these must be known: hence
# the subselects.
PRUNE_KEYS: LiteralString = """
with sample as materialized (
    select o.expires_at, (o.ctid::text::point)[0]::bigint as page from {s}.idempotency_key o
    where o.expires_at >= %(after)s::timestamptz and o.expires_at <= now() and o.job_id %% 16 = 0
    order by o.expires_at limit 1
), over as materialized (
    select k.key from {s}.idempotency_key k
    where k.ctid >= (select format('(%%s,0)', greatest(page - 1, 0))::tid from sample)
    and k.ctid < (select format('(%%s,0)', page + %(pages)s)::tid from sample)
    and k.expires_at <= now() for update skip locked
), pruned as (
    delete from {s}.idempotency_key k using over
    where k.key = any(array[over.key]) and k.expires_at <= now() returning k.job_id
)
select sample.expires_at, (select count(*) from pruned) from sample"""


class KeyHolder(NamedTuple):
    """A taken key: which of those asked for (from 1), the job it admitted, whether that had the same arguments."""

    ord: int
    job_id: int
    created_at: datetime
    same_args: bool
    expired: bool
    readable: bool


class UniqueHolder(NamedTuple):
    """A job with a unique key: whose of those asked for (from 1), and whether it has started, or expired."""

    ord: int
    job_id: int
    created_at: datetime
    started: bool
    expired: bool
    readable: bool


class PrunedKeys(NamedTuple):
    """How many keys were deleted, around one whose window was over at that time."""

    at: datetime
    deleted: int


class KeyQueries(Statements):
    """Keys that admit one job."""

    def find_key_holders(self, jobs: Sequence[NewJob]) -> Query[list[KeyHolder]]:
        """Whom the keys of these jobs, each of which has one, belong to."""
        params = _hashes(jobs) | {"args": lines([job.args for job in jobs]), "compared": self.codec is None}
        return Query(self._sql(FIND_KEY_HOLDERS), lambda rows: [KeyHolder(*row) for row in rows], params)

    def find_unique_holders(self, jobs: Sequence[NewJob]) -> Query[list[UniqueHolder]]:
        """Who has the unique keys of these jobs, each of which has one."""
        return Query(self._sql(FIND_UNIQUE_HOLDERS), lambda rows: [UniqueHolder(*row) for row in rows], _uniques(jobs))

    def free_expired_keys(self, jobs: Sequence[NewJob]) -> Query[None]:
        """Free the keys of these jobs where their time is over."""
        return Query(self._sql(FREE_EXPIRED_KEYS), nothing, _hashes(jobs))

    def free_expired_unique_keys(self, jobs: Sequence[NewJob]) -> Query[None]:
        """Free the unique keys of these jobs where the ones that have them have expired."""
        return Query(self._sql(FREE_EXPIRED_UNIQUE_KEYS), nothing, _uniques(jobs))

    def give_back_keys(self, ids: Sequence[int], jobs: Sequence[NewJob]) -> Query[None]:
        """Free the keys of these jobs that were taken under these ids."""
        return Query(self._sql(GIVE_BACK_KEYS), nothing, _hashes(jobs) | {"ids": packed(ids)})

    def take_expired_keys(self, keys: Sequence[str]) -> Query[int]:
        """Take those of the keys whose time is over, without waiting for anybody; returns how many were taken."""
        return Query(self._sql(TAKE_EXPIRED_KEYS), len, {"keys": packed(keys)})

    def prune_keys(self, pages: int, after: datetime | None = None) -> Query[PrunedKeys | None]:
        """Delete idempotency keys whose window is over, from so many pages and one; None if there seem to be none."""
        return Query(self._sql(PRUNE_KEYS), _pruned, {"pages": pages, "after": start_of(after)})


def _hashes(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {"keys": lines([conditions_of(job).key_hash for job in jobs])}


def _uniques(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {"uniques": lines([conditions_of(job).unique_hash for job in jobs])}


def _pruned(rows: Sequence[Row]) -> PrunedKeys | None:
    return PrunedKeys(*rows[0]) if rows else None
