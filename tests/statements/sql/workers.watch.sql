with beat as (
    update "pgqueue".worker set heartbeat_at = clock_timestamp(), duties = %(duties)s::jsonb, rss_bytes = %(rss_bytes)s,
        quiet_at = case when %(quiet)s then coalesce(quiet_at, clock_timestamp()) end
    where id = %(id)s and lost_at is null returning requested, requested_at, requested_by
)
select beat.requested, beat.requested_at, beat.requested_by, due.seconds, due.metered,
    exists (select from "pgqueue".worker w where w.id <> %(id)s and case
        when w.lost_at is null
        then w.heartbeat_at < clock_timestamp() - pg_catalog.make_interval(secs => least(w.lease_seconds, 86400))
        else (select true from "pgqueue".job_live j where j.worker_id = w.id limit 1) end)
from beat cross join lateral (
select extract(epoch from pg_catalog.min(case when first.expired or first.task = any((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[])
                                   then greatest(first.run_at, now() + interval '1 s') else first.run_at end)
               - clock_timestamp())::float8,
       exists (select from pg_catalog.unnest(%(queues)s::text[]) as served(name) cross join lateral (
           select from "pgqueue".job_live j
           where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.name limit 1) as metered),
       (pg_catalog.json_agg(pg_catalog.json_build_array(served.name, first.priority, first.run_at))
        filter (where first.run_at <= clock_timestamp()
                and (first.expired or first.task = any((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[])) is not true))::text
from pg_catalog.unnest(%(queues)s::text[]) as served(name)
cross join lateral (
    with recursive lane(priority, run_at, expired, task) as (
        (select j.priority::smallint, j.run_at::timestamptz, j.expires_at <= now() and j.attempt = 0, j.task::text
         from "pgqueue".job_live j where j.state = 'pending' and j.queue::text = served.name
         order by j.priority desc, j.run_at limit 1)
        union all
        select following.priority, following.run_at, following.expired, following.task
        from lane cross join lateral (
            select j.priority::smallint, j.run_at::timestamptz, j.expires_at <= now() and j.attempt = 0 as expired,
                   j.task::text
            from "pgqueue".job_live j
            where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < lane.priority
            order by j.priority desc, j.run_at limit 1) as following
    )
    select lane.priority, lane.run_at, lane.expired, lane.task from lane
) as first
where not exists (select from "pgqueue".queue q where q.name = served.name and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))) as due(seconds, metered, lanes)
