"""SQL that lets a job wait for a time, a signal, an event or a call: with its places of limits, where rules say so."""

from typing import LiteralString

from pgqueue.queries.base import fill
from pgqueue.queries.jobs.metered_parts import LANE
from pgqueue.queries.jobs.turns import PLACES_KEPT

# Let jobs wait until a time of the database's clock, in the transaction in which RESOLVE has put them back; it holds
# their rows. `signalled`: a signal came while the job still ran, so it goes on at once; the duty that delivers signals
# has changed this very row, and whoever locked it last sees what the other one wrote. Without a time: the year 9000.
# The attempt is given back, and the job does not expire any more. By primary key.
_PUT_TO_SLEEP: LiteralString = r"""
with given as (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]),
        (select string_to_array(%(times)s, ',', '')::timestamptz[])
    ) as g(id, lease, at)
){and_keep}, sleeper as (
    update {s}.job_live j
    set run_at = case when j.signalled then clock_timestamp() else coalesce(g.at, '9000-01-01Z'::timestamptz) end,
        signalled = null, attempt = 0, expires_at = null{lane}
    from given g
    where j.id = any(array[g.id]) and j.lease = g.lease and j.state in ('pending', 'blocked')
    returning j.id, j.run_at::timestamptz <= clock_timestamp() as due
){and_kept}
select id from sleeper where due"""
PUT_TO_SLEEP: LiteralString = fill(_PUT_TO_SLEEP, and_keep="", lane="", and_kept="")

# Let metered jobs wait, as PUT_TO_SLEEP does, and keep their places of the limits that count jobs which wait. RESOLVE
# has given all their buckets back, in this transaction, and so holds the rows of the counters: this statement takes the
# places back before anybody else can see them. So a place is never free for an instant, no lock is new, and RESOLVE
# need not know any rule. The naive form, which takes places after the commit, finds that others have them.
# A job that keeps places waits in a lane of its own kind, with others that keep the same ones: only what it has not
# kept has to have room. One in order stays in its lane. A rule with a breaker, which SQL may have given it, keeps
# none: a place that waits would count as the one job that tries whether the breaker may close. By primary keys, and
# the right end of that of the counter.
PUT_TO_SLEEP_METERED: LiteralString = fill(
    _PUT_TO_SLEEP,
    and_keep=""", keep as materialized (
    select g.id, g.lease, b.name, j.home, f.version from given g
    cross join lateral (
        select j.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, {home} as home
        from {s}.job_live j where j.id = g.id and j.lease = g.lease and j.lane is not null limit 1) as j
    cross join lateral jsonb_array_elements_text(j.buckets) as b(name)
    cross join lateral (
        select from {s}.limit_rule r
        where r.name = split_part(b.name, '/', 1) and r.kind = 'limit' and r.while_waiting
        and r.breaker_failures is null limit 1) as r
    cross join lateral (
        select f.version from {s}.limit_freed f where f.name = b.name order by f.version desc limit 1) as f
    where {places_kept}
), apart as materialized (
    select k.id, case when k.home < 0 then k.home else
        ('x' || substr(md5(concat_ws(E'\\n', k.home, string_agg(k.name, E'\\n' order by k.name))), 1, 16)
        )::bit(64)::bigint & 9223372036854775807 end as lane
    from keep k group by k.id, k.home
)""",
    lane=", lane = coalesce((select a.lane from apart a where a.id = j.id), j.lane)",
    and_kept=""", taken_back as (
    update {s}.limit_freed f set freed = f.freed - k.jobs, version = f.version + 1
    from (select k.name, k.version, count(*) as jobs from keep k where k.id in (select id from sleeper)
          group by k.name, k.version) as k
    where f.name = any(array[k.name]) and f.version >= k.version
), kept as (
    insert into {s}.limit_hold (job_id, bucket, lease)
    select k.id, k.name, k.lease from keep k where k.id in (select id from sleeper) order by k.id, k.name
    on conflict (job_id, bucket) do update set lease = excluded.lease
)""",
    home=fill(LANE, headers="j.headers::jsonb"),
    places_kept=PLACES_KEPT,
)
