select q.schedule, q.tick, q.by from pg_catalog.unnest(%(names)s::text[]) as n(name), lateral (
    (select f.schedule, f.tick, f.by from "pgqueue".schedule_fire f
     where f.outcome = 'queued' and f.schedule = n.name and f.by is null order by f.tick limit %(queued)s)
    union all
    (select f.schedule, f.tick, f.by from "pgqueue".schedule_fire f
     where f.outcome = 'queued' and f.schedule = n.name and f.by is not null order by f.tick limit %(runs)s)
) as q
order by q.tick
