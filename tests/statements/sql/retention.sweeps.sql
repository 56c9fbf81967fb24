with rule as materialized (
    select r.name, r.queue, r.task, coalesce(r.value, interval '1000 years') as value,
           r.queue = '*' and r.task = '*' as general,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.queue, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as queues,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.task, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as tasks
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled', 'failed')
), held as (
    select c.oid, c.relname::text as name, p.*
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral pg_catalog.regexp_match(c.relname::text, '_([0-9]{8})(?:_([0-9]{8}))?$') as named
    cross join lateral (
        select pg_catalog.to_date(named[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
               coalesce(pg_catalog.to_date(named[2], 'YYYYMMDD'), pg_catalog.to_date(named[1], 'YYYYMMDD') + 1)::timestamp
               at time zone 'UTC', named[2] is not null
    ) as p(first, past, many)
    where i.inhparent = pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', 'pgqueue'::text, 'job_finished'))::oid and named is not null
), hash as (
    select pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', r.name, r.queue, r.task, r.value::text), ',' order by r.name, r.queue, r.task))
    from rule r where r.name <> 'failed'
)
select h.name, h.first, h.past, a.age, h.past <= now() - a.age as closed,
       case when p.closed or h.past > now() - a.age then coalesce(p.block, 0::bigint) else 0::bigint end as block,
       b.blocks, hash.md5
from held h cross join hash
cross join (select pg_catalog.max(r.value) as age from rule r where r.name <> 'failed') as longest
cross join (select distinct r.value as age from rule r
            where r.name <> 'failed' and r.value < interval '1000 years') as a
cross join lateral (
    select pg_catalog.pg_relation_size(h.oid::regclass) / pg_catalog.current_setting('block_size')::bigint as blocks
) as b
left join "pgqueue".pruned p on p.relation = h.name and p.age = a.age and p.rules = hash.md5 and p.age > interval '0'
where h.first < now() - a.age
and (not %(whole)s::bool or h.past > now() - longest.age and (h.many or a.age < longest.age))
and case when p.closed or h.past > now() - a.age then coalesce(p.block, 0::bigint) else 0::bigint end < b.blocks
order by h.first, a.age
