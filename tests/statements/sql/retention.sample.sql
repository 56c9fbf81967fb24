with rule as materialized (
    select r.name, r.queue, r.task, coalesce(r.value, interval '1000 years') as value,
           r.queue = '*' and r.task = '*' as general,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.queue, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as queues,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.task, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as tasks
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled', 'failed')
), kind as materialized (
    select f.state, f.queue::text, f.task::text, f.finished_at
    from "pgqueue".job_finished f tablesample system (%(percent)s::real)
    where f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz
), kept as materialized (
    select k.*, (
    select coalesce(pg_catalog.max(r.value) filter (where not r.general), pg_catalog.max(r.value)) from rule r
    where r.name = k.state and k.queue::text like r.queues escape '!'
    and k.task::text like r.tasks escape '!') as keep from (select distinct k.state, k.queue, k.task from kind k) as k
)
select count(*), count(*) filter (where j.finished_at < now() - k.keep)
from kind j join kept k on k.state = j.state and k.queue = j.queue and k.task = j.task
