with newest as materialized (
    select d.id, coalesce(d.fingerprint,
        case when d.reason = 'crashed' then 'crashed '::text || d.task::text
        else 'class '::text || coalesce(d.error ->> 'type'::text, d.reason) end) as sort, d.task::text as task, d.queue::text as queue,
           d.failed_at::timestamptz as failed_at
    from "pgqueue".dead_letter d order by d.failed_at desc limit %(most)s::int
), grouped as (
    select n.sort, count(*) as jobs, pg_catalog.min(n.failed_at) as first_at, pg_catalog.max(n.failed_at) as last_at,
           pg_catalog.array_agg(distinct n.task) as tasks, pg_catalog.array_agg(distinct n.queue) as queues, pg_catalog.max(n.id) as newest_id
    from newest n group by n.sort order by pg_catalog.max(n.failed_at) desc limit %(limit)s::int
), hourly as (
    select n.sort, pg_catalog.floor(extract(epoch from now() - n.failed_at)::float8 / 3600::float8)::int as ago, count(*) as jobs
    from newest n where n.failed_at > now() - pg_catalog.make_interval(hours => %(hours)s::int) group by 1, 2
), whole as (
    select count(*) as read from newest n
)
select g.sort, g.jobs, g.first_at, g.last_at, g.tasks, g.queues, g.newest_id,
       coalesce(d.error::jsonb ->> 'type'::text, d.reason), pg_catalog.substr(d.error::jsonb ->> 'message'::text, 1, 300),
       (select coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(h.ago, h.jobs)), '[]') from hourly h where h.sort = g.sort)::text,
       g.first_at > now() - interval '1 hour' and w.read < %(most)s::int, w.read
from grouped g cross join whole w left join lateral (
    select e.error, e.reason from "pgqueue".dead_letter e where e.id = g.newest_id limit 1) as d on true
order by g.last_at desc
