"""Buckets: made when a job first needs one, brought in line with what runs, and dropped when nobody needs them."""

from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements, first_value, nothing

# Make the buckets that do not exist. Who inserts the name makes the counter too; another one that wants the same name
# waits for that transaction and then inserts nothing. The naive form inserts version 0 of the counter wherever none is
# seen, and makes a second row beside version 17, of which its snapshot knows nothing. Sorted, so that two that make
# several of the same names cannot deadlock. Says of which names each worker keeps the rate for itself, by the primary
# key of limit_rule: the look that found a bucket missing could not know the rate.
MAKE_BUCKETS: LiteralString = """
with made as (
    insert into {s}.limit_bucket (name)
    select name from unnest((select %(names)s::text[])) as g(name) order by name collate "C"
    on conflict do nothing returning name
), freed as (
    insert into {s}.limit_freed (name, version, rule) select name, 0, split_part(name, '/', 1) from made
), used as (
    insert into {s}.limit_use (name, version, rule) select name, 0, split_part(name, '/', 1) from made
)
select g.name from unnest((select %(names)s::text[])) as g(name)
where exists (select from {s}.limit_rule r where r.name = split_part(g.name, '/', 1) and r.scope = 'worker')"""

# Drop the buckets that nobody has needed for an hour. SKIP LOCKED: a claim that holds one keeps it, and one that has
# just taken a place is seen. A claim that waits for such a row finds none, takes nothing, and the next look makes the
# bucket again. `version` grows from 0 again: a statement that has seen an older one does not see the new one at all.
DROP_IDLE_BUCKETS: LiteralString = """
with idle as materialized (
    select u.name, u.version, f.version as freed_version
    from {s}.limit_use u join {s}.limit_freed f on f.name = u.name
    where u.taken <= f.freed and f.opened = 0 and u.tat < now() - interval '1 hour'
    and (f.closed_until is null or f.closed_until < now() - interval '1 hour')
    limit %(at_most)s::int for update skip locked
), freed as (
    delete from {s}.limit_freed f using idle
    where f.name = any(array[idle.name]) and f.version >= idle.freed_version
), gone as (
    delete from {s}.limit_use u using idle
    where u.name = any(array[idle.name]) and u.version >= idle.version returning u.name
), dropped as (
    delete from {s}.limit_bucket b where b.name = any(array(select name from gone))
)
select count(*) from gone"""

# Compare each counter with what runs, without a lock: what differs is a suspicion. A statement of the same moment sees
# both sides of each claim and each end, since they change both in one transaction. Reads the running rows by
# job_live_running, and the counters whole: once a minute.
FIND_DRIFT: LiteralString = """
with actual as (
    select b.name, count(*)::int as running
    from (select j.headers::jsonb as headers from {s}.job_live j
          where j.worker_id is not null and j.lane is not null) as j
    cross join lateral jsonb_array_elements_text(j.headers -> '$flow'::text -> 'buckets'::text) as b(name)
    group by b.name
)
select u.name from {s}.limit_use u join {s}.limit_freed f on f.name = u.name left join actual a on a.name = u.name
where u.taken - f.freed <> coalesce(a.running, 0) order by u.name collate "C" limit %(at_most)s::int"""

# Lock both counters of a bucket, in a transaction whose next statement counts: first that of what was given back, as
# all do who lock both. Two statements on purpose: one that locks and counts would count in a snapshot from before it
# got the locks.
LOCK_BUCKET: LiteralString = """
with freed as materialized (
    select f.name
    from (select version from {s}.limit_freed where name = %(name)s::text order by version desc limit 1) as s
    cross join lateral (
        select f.name from {s}.limit_freed f
        where f.name = any(array[%(name)s::text]) and f.version >= s.version for update) as f
)
select u.version from freed f
cross join lateral (select version from {s}.limit_use where name = f.name order by version desc limit 1) as s
cross join lateral (
    select u.version from {s}.limit_use u
    where u.name = any(array[f.name]) and u.version >= s.version for update) as u"""

# Count what runs in a bucket that is locked, and write it down where the counters say something else. Both only grow:
# too few running is a place more taken, too many one more given back. If one of them went back, a claim that has read
# the older row would find room that there is not.
RECONCILE: LiteralString = """
with actual as materialized (
    select count(*) as running from {s}.job_live j
    where j.worker_id is not null and j.lane is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> jsonb_build_array(%(name)s::text)
), old as materialized (
    select u.version, u.taken - f.freed as running, f.version as freed_version
    from (select u.* from {s}.limit_use u where u.name = %(name)s::text order by u.version desc limit 1) as u
    cross join lateral (
        select f.* from {s}.limit_freed f where f.name = u.name order by f.version desc limit 1) as f
), taken as (
    update {s}.limit_use u set taken = u.taken + a.running - o.running, version = u.version + 1
    from actual a, old o
    where u.name = any(array[%(name)s::text]) and u.version >= o.version and a.running > o.running
), freed as (
    update {s}.limit_freed f set freed = f.freed + o.running - a.running, version = f.version + 1
    from actual a, old o
    where f.name = any(array[%(name)s::text]) and f.version >= o.freed_version and a.running < o.running
)
select o.running, a.running from actual a, old o where a.running <> o.running"""


class Drift(NamedTuple):
    """What the counter of a bucket said, and how many of its jobs ran."""

    counted: int
    running: int


class BucketQueries(Statements):
    """Buckets."""

    def make_buckets(self, names: Sequence[str]) -> Query[list[str]]:
        """Make the buckets of these names that do not exist; returns those whose rate each worker keeps for itself."""
        return Query(self._sql(MAKE_BUCKETS), lambda rows: [row[0] for row in rows], {"names": list(names)})

    def drop_idle_buckets(self, at_most: int) -> Query[int]:
        """Drop buckets that have been idle for an hour; returns how many."""
        return Query(self._sql(DROP_IDLE_BUCKETS), first_value, {"at_most": at_most})

    def find_drift(self, at_most: int) -> Query[list[str]]:
        """Find buckets whose counter differs from what runs."""
        return Query(self._sql(FIND_DRIFT), lambda rows: [row[0] for row in rows], {"at_most": at_most})

    def lock_bucket(self, name: str) -> Query[None]:
        """Lock the counter of a bucket until the transaction ends."""
        return Query(self._sql(LOCK_BUCKET), nothing, {"name": name})

    def reconcile(self, name: str) -> Query[Drift | None]:
        """Let the counter of a locked bucket say what runs; None where it did already."""
        return Query(self._sql(RECONCILE), _drift, {"name": name})


def _drift(rows: Sequence[Row]) -> Drift | None:
    return Drift(*rows[0]) if rows else None
