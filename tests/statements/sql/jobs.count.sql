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
), served as (
    select queue, case when %(most)s::int > 0
        then least(%(most)s::int, greatest(100, %(together)s::int / count(*) over ()::int) - 1) end as most
    from (select distinct queue from lane) as named
), waits as materialized (
    select s.queue, s.most, (select count(*) from (
select from lane cross join lateral (select from waiting j
where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
order by j.run_at, j.id limit s.most + 1) as first
where lane.queue = s.queue limit s.most + 1) as n) as due, (select count(*) from (
select from waiting j where j.attempt > 0 and j.queue = s.queue and j.run_at <= now()
order by j.run_at, j.id limit s.most + 1) as n) as due_again, (select count(*) from (
select from lane cross join lateral (select from waiting j
where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
order by j.run_at, j.id limit s.most + 1) as first
where lane.queue = s.queue limit s.most + 1) as n) as later, (select count(*) from (
select from waiting j where j.attempt > 0 and j.queue = s.queue and j.run_at > now()
order by j.run_at, j.id limit s.most + 1) as n) as later_again
    from served s
), others as (
    select queue, count(*) filter (where kind = 1) as running, count(*) filter (where kind = 2) as blocked,
        count(*) filter (where kind = 3) as dead
    from (
(select queue::text, 1 as kind from "pgqueue".job_live where worker_id is not null
order by worker_id limit %(most)s::int + 1)
union all
(select queue::text, 2 from "pgqueue".job_live where state = 'blocked' and waits_for = 'task'
order by task limit %(most)s::int + 1)
union all
(select queue::text, 2 from "pgqueue".job_live where state = 'blocked' and waits_for = 'pause'
order by task limit %(most)s::int + 1)
union all
(select queue::text, 3 from "pgqueue".dead_letter order by failed_at desc limit %(most)s::int + 1)
) as other group by queue
)
select queue, coalesce(due - due_again, 0), coalesce(later - later_again, 0), coalesce(due_again + later_again, 0),
    coalesce(running, 0), coalesce(blocked, 0), coalesce(dead, 0),
    (select extract(epoch from now() - pg_catalog.min(oldest.run_at))::float8 from lane cross join lateral (
    select j.run_at from waiting j
    where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
    order by j.run_at limit 1) as oldest
    where lane.queue = found.queue),
    (select count(*) from "pgqueue".worker_health w where w.status = 'alive' and (found.queue = any(w.queues) or exists (select from pg_catalog.unnest(w.queues) as g
        where found.queue like pg_catalog.replace(pg_catalog.replace(g, '_', '!_'), '*', '%%') escape '!'))),
    exists (select from "pgqueue".paused p where p.kind = 'queue' and p.name = found.queue),
    pg_catalog.array_remove(array[
    case when due > most then 'pending' end,
    case when later > most then 'scheduled' end,
    case when due_again > most or later_again > most then 'retrying' end,
    case when pg_catalog.sum(running) over () > %(most)s::numeric then 'running' end,
    case when pg_catalog.sum(blocked) over () > %(most)s::numeric then 'blocked' end,
    case when pg_catalog.sum(dead) over () > %(most)s::numeric then 'dead' end], null)
from (waits full join others using (queue)) as found order by queue
