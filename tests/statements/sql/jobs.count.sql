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
), served as materialized (select distinct queue from lane),
sample(queue, kind, again) as materialized (
    select served.queue, 'due', due.attempt > 0 from served cross join lateral (
        select first.attempt from lane cross join lateral (
            select j.attempt from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
            order by j.run_at, j.id limit %(most)s::int + 1) as first
        where lane.queue = served.queue limit %(most)s::int + 1) as due
    union all
    select served.queue, 'later', later.attempt > 0 from served cross join lateral (
        select first.attempt from lane cross join lateral (
            select j.attempt from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
            order by j.run_at, j.id limit %(most)s::int + 1) as first
        where lane.queue = served.queue limit %(most)s::int + 1) as later
    union all
    (select queue, 'running', false from "pgqueue".job_live where worker_id is not null
     order by worker_id limit %(most)s::int + 1)
    union all
    (select queue, 'blocked', false from "pgqueue".job_live where state = 'blocked' and waits_for = 'task'
     order by task limit %(most)s::int + 1)
    union all
    (select queue, 'dead', false from "pgqueue".dead_letter order by failed_at desc limit %(most)s::int + 1)
), found as (
    select queue, count(*) filter (where kind = 'due' and not again) as pending,
           count(*) filter (where kind = 'later' and not again) as scheduled,
           count(*) filter (where again) as retrying,
           count(*) filter (where kind = 'running') as running,
           count(*) filter (where kind = 'blocked') as blocked,
           count(*) filter (where kind = 'dead') as dead,
           count(*) filter (where kind = 'due') > %(most)s::int as more_due,
           count(*) filter (where kind = 'later') > %(most)s::int as more_later
    from sample group by queue
)
select queue, pending, scheduled, retrying, running, blocked, dead,
       (select extract(epoch from now() - pg_catalog.min(oldest.run_at))::float8 from lane cross join lateral (
            select j.run_at from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
            order by j.run_at limit 1) as oldest
        where lane.queue = found.queue),
       (select count(*) from "pgqueue".worker_health w where w.status = 'alive' and (found.queue = any(w.queues) or exists (select from pg_catalog.unnest(w.queues) as g
        where found.queue like pg_catalog.replace(pg_catalog.replace(g, '_', '!_'), '*', '%%') escape '!'))),
       exists (select from "pgqueue".queue q where q.name = found.queue and q.paused_at is not null and (q.paused_until is null or q.paused_until > now())),
       pg_catalog.array_remove(array[
           case when more_due then 'pending' end,
           case when more_later then 'scheduled' end,
           case when more_due or more_later then 'retrying' end,
           case when pg_catalog.sum(running) over () > %(most)s::numeric then 'running' end,
           case when pg_catalog.sum(blocked) over () > %(most)s::numeric then 'blocked' end,
           case when pg_catalog.sum(dead) over () > %(most)s::numeric then 'dead' end], null)
from found order by queue
