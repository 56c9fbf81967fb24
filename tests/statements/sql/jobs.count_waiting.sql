with recursive for_jobs(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'jobs' order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'jobs' and j.queue::text > for_jobs.queue
            order by j.queue limit 1)
    from for_jobs where for_jobs.queue is not null
), resting(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 and j.queue::text > resting.queue
            order by j.queue limit 1)
    from resting where resting.queue is not null
), waiters as materialized (
    select f.queue, f.most, counted.jobs from (
        select queue, case when %(most)s::int > 0
            then least(%(most)s::int, greatest(100, %(together)s::int / count(*) over ()::int) - 1) end as most
        from for_jobs where queue is not null) as f
    cross join lateral (
        select count(*) as jobs from (
            select from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'jobs' and j.queue::text = f.queue
            order by j.queue, j.id limit f.most + 1) as w) as counted
), sleepers as materialized (
    select r.queue, r.most, counted.jobs, counted.sleeping, counted.waiting from (
        select queue, case when %(most)s::int > 0
            then least(%(most)s::int, greatest(10, %(most)s::int / count(*) over ()::int)) end as most
        from resting where queue is not null) as r
    cross join lateral (
        select count(*) as jobs, count(*) filter (where w.phase = 'sleeping') as sleeping,
               count(*) filter (where w.phase = 'waiting') as waiting
        from (select (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) as phase from (
            select j.id from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and j.queue::text = r.queue
            order by j.queue, j.run_at, j.id limit r.most + 1) as j offset 0) as w) as counted
)
select n.queue, coalesce(n.jobs, 0), coalesce(n.sleeping, 0), coalesce(n.waiting, 0), coalesce(n.jobs > n.most, false),
    coalesce(n.looked > n.most_looked, false),
    (select count(*) from "pgqueue".worker_health w where w.status = 'alive' and (n.queue = any(w.queues) or exists (select from pg_catalog.unnest(w.queues) as g
        where n.queue like pg_catalog.replace(pg_catalog.replace(g, '_', '!_'), '*', '%%') escape '!'))),
    exists (select from "pgqueue".queue q where q.name = n.queue and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
from (select queue, w.jobs, w.most, s.jobs as looked, s.most as most_looked, s.sleeping, s.waiting
      from waiters w full join sleepers s using (queue)) as n
where n.jobs > 0 or n.looked > 0 order by n.queue
