with recursive waiting as not materialized (
    select queue::text, priority::smallint, run_at::timestamptz, id, attempt from "pgqueue".job_live where state = 'pending'
), lane(queue, priority) as (
    (select j.queue, j.priority from waiting j order by j.queue, j.priority desc limit 1)
    union all
    select rest.queue, rest.priority from lane cross join lateral (
        (select j.queue, j.priority from waiting j where j.queue = lane.queue and j.priority < lane.priority
         order by j.queue, j.priority desc limit 1)
        union all
        (select j.queue, j.priority from waiting j where j.queue > lane.queue
         order by j.queue, j.priority desc limit 1)
        order by queue limit 1) as rest
), served as materialized (select distinct queue from lane), fresh as (
    select served.queue, (
        select count(*) from (
            select from lane cross join lateral (
                select from waiting j
                where j.queue = lane.queue and j.priority = lane.priority
                and j.run_at > now() - interval '1 minute' and j.run_at <= now()
                order by j.run_at, j.id limit %(most)s::int + 1) as first
            where lane.queue = served.queue limit %(most)s::int + 1) as counted) as jobs
    from served
), ended as (
    select a.queue, pg_catalog.sum(a.jobs::float8) as jobs, pg_catalog.sum((
        select pg_catalog.sum(a.wait_counts[b.bucket]::float8)
        from unnest(%(buckets)s::int[], %(middles)s::float8[]) as b(bucket, middle)
        where b.middle < 60::float8 - date_part('epoch'::text, now() - a.at) - a.run_seconds / a.jobs::float8)) as fresh
    from "pgqueue".activity a
    where a.at > now() - interval '1 minute' and a.outcome not in ('released', 'expired', 'rescued', 'skipped')
    group by a.queue
)
select queue, coalesce(ended.jobs, 0::float8) / 60::float8,
       case when coalesce(fresh.jobs, 0::bigint) <= %(most)s::bigint
            then (coalesce(fresh.jobs::float8, 0::float8) + coalesce(ended.fresh, 0::float8)) / 60::float8 end
from fresh full join ended using (queue) order by queue
