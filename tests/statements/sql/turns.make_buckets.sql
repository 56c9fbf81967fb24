with made as (
    insert into "pgqueue".limit_bucket (name)
    select name from pg_catalog.unnest((select %(names)s::text[])) as g(name) order by name collate "C"
    on conflict do nothing returning name
), freed as (
    insert into "pgqueue".limit_freed (name, version, rule) select name, 0, pg_catalog.split_part(name, '/', 1) from made
), used as (
    insert into "pgqueue".limit_use (name, version, rule) select name, 0, pg_catalog.split_part(name, '/', 1) from made
)
select g.name from pg_catalog.unnest((select %(names)s::text[])) as g(name)
where exists (select from "pgqueue".limit_rule r where r.name = pg_catalog.split_part(g.name, '/', 1) and r.scope = 'worker')
