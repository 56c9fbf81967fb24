with counted as materialized (
    select 0 as weeks, a.outcome, a.jobs, a.wait_counts from "pgqueue".activity a
    where a.at > now() - interval '1 hour' and a.outcome in ('succeeded', 'retried', 'failed')
    union all
    select 1, a.outcome, a.jobs, a.wait_counts from "pgqueue".activity a
    where a.at > now() - interval '169 hours' and a.at <= now() - interval '168 hours'
    and a.outcome in ('succeeded', 'retried', 'failed')
), spread as (
    select c.weeks, n::float8 as bucket, pg_catalog.sum(c.wait_counts[n]) as jobs
    from counted c cross join lateral pg_catalog.generate_subscripts(c.wait_counts, 1) as n group by 1, 2
), summed as (
    select s.weeks, pg_catalog.power(2::float8, (s.bucket - 0.5::float8) / 2::float8) / 1000000::float8 as seconds,
           pg_catalog.sum(s.jobs) over (partition by s.weeks order by s.bucket) / pg_catalog.sum(s.jobs) over (partition by s.weeks) as share
    from spread s
)
select c.weeks, pg_catalog.sum(c.jobs)::bigint, coalesce(pg_catalog.sum(c.jobs) filter (where c.outcome = 'failed'), 0)::bigint,
       (select pg_catalog.min(s.seconds) from summed s where s.weeks = c.weeks and s.share >= 0.95)::float8
from counted c group by 1
