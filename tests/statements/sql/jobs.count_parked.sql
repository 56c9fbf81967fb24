with recursive parked(task, version, queue) as (
    (select j.task::text, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text from "pgqueue".job_live j
     where j.state = 'blocked' and j.waits_for = 'task'
     order by j.task, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1)
    union all
    select following.task, following.version, following.queue from parked cross join lateral (
        select j.task::text, coalesce(j.headers::jsonb ->> '$version'::text, '1') as version, j.queue::text
        from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'task'
        and (j.task::text, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text)
            > (parked.task, parked.version, parked.queue)
        order by j.task, coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1) as following
)
select p.task, p.queue, few.jobs,
       exists (select from "pgqueue".worker w
               where w.lost_at is null and w.heartbeat_at > now() - w.lease_seconds * interval '1 s'
               and (p.queue = any(w.queues) or exists (select from pg_catalog.unnest(w.queues) as g
        where p.queue like pg_catalog.replace(pg_catalog.replace(g, '_', '!_'), '*', '%%') escape '!'))
               and case p.version when '1' then p.task else p.task || '@' || p.version end = any(w.tasks)),
       coalesce(few.jobs > %(most)s::int, false), p.version
from parked p cross join lateral (
    select count(*) as jobs from (
        select from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = p.task
        and coalesce(j.headers::jsonb ->> '$version'::text, '1') = p.version and j.queue::text = p.queue
        limit %(most)s::int + 1) as counted
) as few order by p.task, p.version, p.queue
