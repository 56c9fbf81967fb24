with rule as materialized (
    select r.name, r.queue, r.task, coalesce(r.value, interval '1000 years') as value,
           r.queue = '*' and r.task = '*' as general,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.queue, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as queues,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.task, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as tasks
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled', 'failed')
)
select 'dead_letter', count(*) from "pgqueue".dead_letter d
where d.failed_at < now() - (select pg_catalog.min(r.value) from rule r where r.name = %(state)s::text)
and d.failed_at < now() - (
    select coalesce(pg_catalog.max(r.value) filter (where not r.general), pg_catalog.max(r.value)) from rule r
    where r.name = %(state)s::text and d.queue::text like r.queues escape '!'
    and d.task::text like r.tasks escape '!')
union all
select 'schedule_fire', count(*) from "pgqueue".schedule_fire f
where f.outcome <> 'queued' and f.tick < now() - (select r.value from "pgqueue".retention r where r.name = 'ticks')
and exists (select from "pgqueue".schedule_fire l where l.schedule = f.schedule and l.tick > f.tick)
union all
select 'operation', count(*) from "pgqueue".operation p
where p.ended_at < now() - (select r.value from "pgqueue".retention r where r.name = 'operations')
