"""Places of limits that jobs keep while they wait: those that are kept no longer, looked for and given back."""

from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill
from pgqueue.queries.jobs.metered_parts import LANE

# Look at so many kept places behind one, and give back those that are kept no longer: where the rule does not ask for
# it any more, or has a breaker by now, where the job takes another bucket, and where a statement that does not know
# of kept places, or SQL, has put the job among those of its lane that have kept none; it would wait behind jobs that
# wait for its place. Such a job gives all its places back, and its turn decides when it goes on. Whoever sets a rule
# to this locks no job; so a rule that changes binds a job that waits within the time between two looks.
# A place under another lease is a leftover, and goes without being given back: RECONCILE counts without it.
# Jobs are locked first, then buckets. SKIP LOCKED: a job that somebody claims, or ends, is found again or has gone.
# Along the primary key of limit_hold, and those of jobs and rules. `lease` is compared once more by the deletion, which
# may have waited for a job that has just fallen asleep again.
GIVE_UP: LiteralString = fill(
    """
with looked as materialized (
    select h.job_id, h.bucket, h.lease, j.id is not null as waits,
           j.home <> j.lane or j.lane < 0 as apart, (j.buckets ? h.bucket) is true as takes,
           (select r.while_waiting and r.breaker_failures is null from {s}.limit_rule r
            where r.name = split_part(h.bucket, '/', 1) limit 1) is true as asked
    from (select * from {s}.limit_hold h
          where (h.job_id, h.bucket) > (%(job)s::bigint, %(bucket)s::text)
          order by h.job_id, h.bucket limit %(at_most)s::int) as h
    left join lateral (
        select j.id, j.lane, {home} as home, j.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets
        from {s}.job_live j where j.id = h.job_id and j.lease = h.lease and j.state = 'blocked' limit 1) as j on true
), leftover as (
    delete from {s}.limit_hold h using looked l
    where h.job_id = any(array[l.job_id]) and h.bucket = l.bucket and h.lease = l.lease and not l.waits
), locked as materialized (
    select j.id from {s}.job_live j
    where j.id = any(array(select job_id from looked where waits and (apart and takes and asked) is not true))
    order by j.id for update skip locked
), moved as (
    update {s}.job_live j set lane = {home_too}
    where j.id = any(array(select id from locked)) and j.state = 'blocked' and j.lane is not null
    returning j.id, j.lease
)
select (select count(*) from looked), last.job_id, last.bucket,
       coalesce((select {s}.give_back(array_agg(m.id), array_agg(m.lease)) from moved m having count(*) > 0), 0::bigint)
from (select 1) as one left join lateral (
    select l.job_id, l.bucket from looked l order by l.job_id desc, l.bucket desc limit 1) as last on true""",
    home=fill(LANE, headers="j.headers::jsonb"),
    home_too=fill(LANE, headers="j.headers::jsonb"),
)


class KeptPlace(NamedTuple):
    """A place that a job keeps: the job and the bucket."""

    job: int = 0
    bucket: str = ""


class GivenUp(NamedTuple):
    """How many kept places were looked at, the last of them, and how many were given back."""

    looked: int
    last: KeptPlace
    places: int


class KeptQueries(Statements):
    """Kept places."""

    def give_up(self, after: KeptPlace, at_most: int) -> Query[GivenUp]:
        """Give back the places that are kept no longer, among so many behind a place."""
        params = {"job": after.job, "bucket": after.bucket, "at_most": at_most}
        return Query(
            self._sql(GIVE_UP),
            lambda rows: GivenUp(rows[0][0], KeptPlace(rows[0][1] or 0, rows[0][2] or ""), rows[0][3]),
            params,
        )
