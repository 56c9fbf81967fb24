with rule as materialized (
    select r.name, r.queue, r.task, coalesce(r.value, interval '1000 years') as value,
           r.queue = '*' and r.task = '*' as general,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.queue, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as queues,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.task, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as tasks
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled', 'failed')
), looked as materialized (
    select d.id, d.failed_at, d.created_at, d.workflow_id, (
    select coalesce(pg_catalog.max(r.value) filter (where not r.general), pg_catalog.max(r.value)) from rule r
    where r.name = 'failed' and d.queue::text like r.queues escape '!'
    and d.task::text like r.tasks escape '!') as keep from "pgqueue".dead_letter d
    where (d.failed_at, d.id) > (%(after)s::timestamptz, %(after_id)s::bigint)
    and d.failed_at < now() - (select pg_catalog.min(r.value) from rule r where r.name = 'failed')
    order by d.failed_at, d.id limit %(at_most)s for update skip locked
), named as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select l.workflow_id from looked l))
), over as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select id from named)) and w.settled
    and (select true from "pgqueue".job_live j where j.workflow_id = w.id limit 1) is null for share skip locked
), living as materialized (
    select id from named except select id from over
), gone as (
    delete from "pgqueue".dead_letter d using looked l
    where d.id = any(array[l.id]) and l.failed_at < now() - l.keep
    and (l.workflow_id is null or l.workflow_id not in (select id from living))
    returning d.id, d.created_at
), logged as (
    delete from "pgqueue".transition t using gone g
    where t.job_id = any(array[g.id]) and t.at >= (select pg_catalog.min(g.created_at) from gone g)
)
select (select count(*) from gone), pg_catalog.max(l.failed_at), (pg_catalog.array_agg(l.id order by l.failed_at desc, l.id desc))[1]
from looked l
