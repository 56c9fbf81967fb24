"""Named locks: taken, renewed, given back, and broken by operators. Each is one row, which is gone when it is free."""

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.queries.base import Query, Row, Statements, fill, nothing, packed
from pgqueue.queries.jobs.parts import MAY_NOTIFY

# Processes that wait for a lock listen on a channel of their own; the payload is the key.
LISTEN: LiteralString = "listen {locks_channel}"

# Take a lock that is free or has expired; else say who holds it. One statement, which commits by itself.
# `held` is what the snapshot shows: where another holds the lock, the rest does nothing, so a look at a held lock locks
# and writes no row. `turn` lets one taker of a key in at a time, until its commit. `taken` decides by the newest
# version of the row, which ON CONFLICT finds and locks even if the snapshot does not show it: of two takers one gets
# the lock, and the other neither a row nor a holder, and asks again. The owner itself may take it again: that is how
# a taker whose answer was lost learns that it has the lock.
# A token must be greater than those of all earlier holders. The naive form has no `turn`: an insert draws its token
# before it looks for the key, and while it is on the way another may draw the next one, take the lock, use it and give
# it back; then the later holder has the lower token.
# `noted`: whoever waits says so in the row, at most each half minute, so that the release of a lock for which nobody
# waits notifies nobody. It waits for no row: where another statement renews, releases or keeps the lock's row just
# then, nothing is noted, and the waiter looks again soon.
# `swept` runs last, when it can wait for nobody: it removes a few locks that holders left behind which died, an hour
# after they have expired. It reads the whole table, which has a row for each held lock, so only some calls ask for it.
# By primary key, but for `swept`.
ACQUIRE: LiteralString = """
with held as materialized (
    select l.owner, l.token, l.holder, l.job_id, l.acquired_at, l.expires_at, l.waited_until from {s}.named_lock l
    where l.key::text = %(key)s::text and l.expires_at::timestamptz > clock_timestamp()
    and l.owner::uuid <> %(owner)s::uuid
), turn as materialized (
    select pg_advisory_xact_lock(hashtext({channel}), hashtext('lock ' || %(key)s::text))
    where not exists (select from held)
), taken as (
    insert into {s}.named_lock as l (key, owner, token, holder, job_id, acquired_at, expires_at)
    select %(key)s::text, %(owner)s::uuid, nextval('{s}.lock_token'), %(holder)s::text,
        %(job_id)s::bigint, clock_timestamp(), clock_timestamp() + make_interval(secs => %(ttl)s::float8)
    from turn
    on conflict (key) do update set owner = excluded.owner, token = excluded.token, holder = excluded.holder,
        job_id = excluded.job_id, acquired_at = excluded.acquired_at, waited_until = '-infinity',
        expires_at = clock_timestamp() + make_interval(secs => %(ttl)s::float8)
    where l.expires_at <= clock_timestamp() or l.owner = excluded.owner
    returning l.token
), noted as (
    update {s}.named_lock l set waited_until = clock_timestamp() + interval '1 minute'
    where l.key = any(array(
        select o.key from held join {s}.named_lock o on o.key::text = %(key)s::text and o.owner::uuid = held.owner
        where %(waits)s::bool and held.waited_until < clock_timestamp() + interval '30 seconds'
        for update of o skip locked))
    returning l.key
), swept as (
    delete from {s}.named_lock l where %(sweeps)s::bool and l.key = any(array(
        select o.key from {s}.named_lock o
        where %(sweeps)s::bool and o.expires_at < clock_timestamp() - interval '1 hour' and o.key::text <> %(key)s::text
        limit 100 for update skip locked))
)
select taken.token, held.token, held.holder, held.job_id, held.acquired_at, held.expires_at,
    extract(epoch from held.expires_at - clock_timestamp())::float8,
    not %(waits)s::bool or held.waited_until >= clock_timestamp() + interval '30 seconds' or exists (select from noted)
from (values (1)) as one(n) left join taken on true left join held on true"""

# Renew locks that this process holds; say of each whether it is renewed, and whether it is still held under this owner.
# A lock that has expired and that nobody else has taken lives on: until now nobody else had it. Rows that another
# statement has locked are passed over, or one that somebody keeps locked would let all others expire; they are held,
# and not renewed. `lateral` with a `limit` keeps this a probe of the primary key for each.
RENEW: LiteralString = """
with mine as materialized (
    select g.owner, g.ttl, l.key from unnest((select %(owners)s::uuid[]), %(keys)s::text[], (select %(ttls)s::float8[]))
        as g(owner, key, ttl)
    cross join lateral (
        select k.key from {s}.named_lock k where k.key::text = g.key::text and k.owner::uuid = g.owner
        limit 1 for update skip locked) as l
), renewed as (
    update {s}.named_lock l set expires_at = clock_timestamp() + make_interval(secs => mine.ttl) from mine
    where l.key = any(array[mine.key]) and l.owner::uuid = mine.owner returning l.owner
)
select g.owner, exists (select from renewed where renewed.owner::uuid = g.owner),
    (select true from {s}.named_lock l where l.key::text = g.key::text and l.owner::uuid = g.owner limit 1) is not null
from unnest((select %(owners)s::uuid[]), %(keys)s::text[]) as g(owner, key)"""

# Give a lock back, and notify those that wait for it, at the commit. Only the row of this owner: a holder whose lock
# has expired and was taken by another gives nothing back. The naive form names the key alone. By primary key.
RELEASE: LiteralString = fill(
    """
with gone as (
    delete from {s}.named_lock l where l.key::text = %(key)s::text and l.owner::uuid = %(owner)s::uuid
    returning l.key, l.waited_until
), notified as (
    select count(pg_notify({channel} || '.locks', gone.key)) from gone
    where gone.waited_until > clock_timestamp() and {may_notify}
)
select exists (select from gone) from notified""",
    may_notify=MAY_NOTIFY,
)

# Break a lock, whoever holds it; with a token, only if it is held under that one. Its holder finds that out when it
# renews, at the latest when it leaves its block. Notifies as RELEASE does. By primary key.
BREAK: LiteralString = fill(
    """
with gone as (
    delete from {s}.named_lock l where l.key::text = %(key)s::text
    and (%(token)s::bigint is null or l.token = %(token)s::bigint)
    returning l.key, l.holder, l.job_id, l.token, l.acquired_at, l.expires_at, l.waited_until
), notified as (
    select count(pg_notify({channel} || '.locks', gone.key)) from gone
    where gone.waited_until > clock_timestamp() and {may_notify}
)
select gone.key, gone.holder, gone.job_id, gone.token, gone.acquired_at, gone.expires_at,
    gone.waited_until > clock_timestamp()
from gone, notified where gone.expires_at > clock_timestamp()""",
    may_notify=MAY_NOTIFY,
)

# List the locks that are held. The view reads the whole table, which has a row for each of them.
LIST: LiteralString = """
select l.key, l.holder, l.job_id, l.token, l.acquired_at, l.expires_at, l.waited_for
from {s}.lock_status l order by l.key"""


@dataclass(frozen=True, slots=True)
class HeldLock:
    """A lock that is held: by whom, under which token, since and until when. `waited_for`: somebody waits for it."""

    key: str
    holder: str
    job_id: int | None
    token: int
    acquired_at: datetime
    expires_at: datetime
    waited_for: bool = False


class Wanted(NamedTuple):
    """A lock that somebody wants to take: `owner` is this one holding of it, `waits` that the caller will wait for
    it, and `sweeps` that locks left behind are to be removed, too."""

    key: str
    owner: UUID
    ttl: float
    holder: str
    job_id: int | None
    waits: bool
    sweeps: bool


class Look(NamedTuple):
    """What came of trying to take a lock: its token; or who holds it, and for how many seconds. Neither: ask again.

    `noted`: the holder's release will notify the caller, if the caller said that it waits.
    """

    token: int | None
    held: HeldLock | None
    seconds: float
    noted: bool


class Renewal(NamedTuple):
    """Whether a lock was renewed, and whether it is held under its owner at all."""

    renewed: bool
    held: bool


class LockQueries(Statements):
    """Named locks."""

    def listen(self) -> Query[None]:
        """Listen for releases of locks that somebody waits for."""
        return Query(self._sql(LISTEN), nothing)

    def acquire(self, wanted: Wanted) -> Query[Look]:
        """Take a lock, or say who holds it."""
        return Query(self._sql(ACQUIRE), lambda rows: _look(wanted.key, rows[0]), wanted._asdict())

    def renew(self, locks: Sequence[tuple[UUID, str, float]]) -> Query[dict[UUID, Renewal]]:
        """Renew locks, each by its owner, key and time to live; each owner comes back."""
        owners, keys, ttls = zip(*locks, strict=True)
        params = {"owners": packed(owners), "keys": builtins.list(keys), "ttls": packed(ttls)}
        return Query(self._sql(RENEW), lambda rows: {row[0]: Renewal(*row[1:]) for row in rows}, params)

    def release(self, key: str, owner: UUID) -> Query[bool]:
        """Give a lock back; returns whether this owner still held it."""
        return Query(self._sql(RELEASE), lambda rows: bool(rows[0][0]), {"key": key, "owner": owner})

    def break_(self, key: str, token: int | None) -> Query[HeldLock | None]:
        """Break a lock; returns what it was, None if it was free or has another token."""
        return Query(self._sql(BREAK), lambda rows: HeldLock(*rows[0]) if rows else None, {"key": key, "token": token})

    def list(self) -> Query[builtins.list[HeldLock]]:
        """List the locks that are held."""
        return Query(self._sql(LIST), lambda rows: [HeldLock(*row) for row in rows])


def _look(key: str, row: Row) -> Look:
    token, held_token, holder, job_id, acquired_at, expires_at, seconds, noted = row
    if held_token is None:
        return Look(token, None, 0.0, False)
    return Look(token, HeldLock(key, holder, job_id, held_token, acquired_at, expires_at), seconds, noted)
