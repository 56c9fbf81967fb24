with free as materialized (
    select j.id from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
    cross join lateral (select id from "pgqueue".job_live where id = g.id limit 1 for update skip locked) as j
)
select j.id from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
cross join lateral (select id from "pgqueue".job_live where id = g.id limit 1) as j
where j.id not in (select id from free)
