"""Ending what has waited beyond its time: jobs that expired, and idempotency keys whose window is over."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements
from pgqueue.queries.resolve import CARRIED

# Cancel jobs that were not started in time. No claim gives them out any more, whether this has come by or not; so it
# may be late, and here it is only made known. What somebody holds (a claim in flight, a cancellation, another sweeper)
# is skipped, and looked at again when it is free. A job that goes back to pending after an attempt does not expire.
# Reads job_live_expires from `after` on. From the left end, while somebody's snapshot keeps dead entries there, each
# look would step over all of them; the caller knows where it ended the last time, and begins at the left now and then,
# for a job may be committed late. Who waits for a job that ends here is told.
EXPIRE: LiteralString = (
    """
with late as materialized (
    select id, expires_at from {s}.job_live
    where expires_at >= %(after)s::timestamptz and expires_at <= now() and expires_at is not null and attempt = 0
    and state in ('pending', 'blocked')
    order by expires_at limit %(at_most)s for update skip locked
), ended as (
    delete from {s}.job_live j using late
    where j.id = any(array[late.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    returning j.*
), finished as (
    insert into {s}.job_finished ("""
    + CARRIED
    + """, state, reason)
    select """
    + CARRIED
    + """, 'cancelled', 'expired' from ended
), logged as (
    insert into {s}.transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, 'cancelled', attempt, lease, 'expired' from ended
), heard as (
    select count(pg_notify({channel} || '.ended', w.job_id::text))
    from ended cross join lateral (select job_id from {s}.waiter where job_id = ended.id limit 1) as w
    where pg_notification_queue_usage() < 0.5
)
select id, task, queue, expires_at from ended, heard order by expires_at"""
)

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


class ExpiredJob(NamedTuple):
    """A job that was not started in time."""

    id: int
    task: str
    queue: str
    expires_at: datetime


class Pruned(NamedTuple):
    """How many keys were deleted, around one whose window was over at that time."""

    at: datetime
    deleted: int


class ExpireQueries(Statements):
    """Ending what has waited beyond its time."""

    def expire(self, at_most: int, after: datetime | None = None) -> Query[list[ExpiredJob]]:
        """Cancel up to `at_most` expired jobs, the oldest first; only those that expired at a time or later."""
        return Query(self._sql(EXPIRE), lambda rows: [ExpiredJob(*row) for row in rows], _bounds(at_most, after))

    def prune_keys(self, pages: int, after: datetime | None = None) -> Query[Pruned | None]:
        """Delete idempotency keys whose window is over, from so many pages and one; None if there seem to be none."""
        return Query(self._sql(PRUNE_KEYS), _pruned, _after(after) | {"pages": pages})


def _bounds(at_most: int, after: datetime | None) -> dict[str, Any]:
    return _after(after) | {"at_most": at_most}


def _after(after: datetime | None) -> dict[str, Any]:
    return {"after": "-infinity" if after is None else after.isoformat()}


def _pruned(rows: Sequence[Row]) -> Pruned | None:
    return Pruned(*rows[0]) if rows else None
