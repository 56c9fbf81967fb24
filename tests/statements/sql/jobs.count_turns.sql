with recursive turning(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text > turning.queue
            order by j.queue limit 1)
    from turning where turning.queue is not null
), served as materialized (
    select queue, case when %(most)s::int > 0
        then least(%(most)s::int, greatest(100, %(together)s::int / count(*) over ()::int) - 1) end as most
    from turning where queue is not null
)
select s.queue, counted.due, counted.later, counted.again, coalesce(counted.jobs > s.most, false),
    (select count(*) from "pgqueue".worker_health w where w.status = 'alive' and (s.queue = any(w.queues) or exists (select from pg_catalog.unnest(w.queues) as g
        where s.queue like pg_catalog.replace(pg_catalog.replace(g, '_', '!_'), '*', '%%') escape '!'))),
    exists (select from "pgqueue".queue q where q.name = s.queue and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
from served s cross join lateral (
    select count(*) as jobs, count(*) filter (where w.attempt = 0 and w.run_at <= now()) as due,
           count(*) filter (where w.attempt = 0 and w.run_at > now()) as later,
           count(*) filter (where w.attempt > 0) as again
    from (select j.run_at::timestamptz as run_at, j.attempt from "pgqueue".job_live j
          where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = s.queue order by j.queue, j.lane, j.priority desc, (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit s.most + 1) as w
) as counted
