with midnight as materialized (
    select (now() at time zone 'UTC')::date::timestamp at time zone 'UTC' as at
), counted as materialized (
    select a.outcome, a.jobs, a.wait_counts from "pgqueue".activity a
    where a.at >= (select m.at from midnight m) - pg_catalog.make_interval(days => 7 * %(weeks)s::int)
    and a.at <= now() - pg_catalog.make_interval(days => 7 * %(weeks)s::int)
    and a.outcome in ('succeeded', 'retried', 'failed')
), spread as (
    select n::float8 as bucket, pg_catalog.sum(c.wait_counts[n]) as jobs
    from counted c cross join lateral pg_catalog.generate_subscripts(c.wait_counts, 1) as n group by 1
), summed as (
    select pg_catalog.power(2::float8, (s.bucket - 0.5::float8) / 2::float8) / 1000000::float8 as seconds,
           pg_catalog.sum(s.jobs) over (order by s.bucket) / pg_catalog.sum(s.jobs) over () as share
    from spread s
)
select coalesce(pg_catalog.sum(c.jobs), 0)::bigint, coalesce(pg_catalog.sum(c.jobs) filter (where c.outcome = 'failed'), 0)::bigint,
       (select pg_catalog.min(s.seconds) from summed s where s.share >= 0.95)::float8
from counted c
