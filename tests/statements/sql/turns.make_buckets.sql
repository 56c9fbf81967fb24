with made as (
    insert into "pgqueue".limit_bucket (name)
    select name from pg_catalog.unnest((select %(names)s::text[])) as g(name) order by name collate "C"
    on conflict do nothing returning name
), freed as (
    insert into "pgqueue".limit_freed (name, version, rule) select name, 0, pg_catalog.split_part(name, '/', 1) from made
)
insert into "pgqueue".limit_use (name, version, rule) select name, 0, pg_catalog.split_part(name, '/', 1) from made
