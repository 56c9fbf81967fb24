with held as materialized (
    select p.at from "pgqueue".pruned p where p.relation = '' and p.age = interval '0'
), free as materialized (
    select p.at from "pgqueue".pruned p where p.relation = '' and p.age = interval '0' for update skip locked
), taken as (
    insert into "pgqueue".pruned as p (relation)
    select '' where not exists (select from held) or exists (select from free)
    on conflict (relation, age) do update set at = clock_timestamp()
    where p.at < now() - pg_catalog.make_interval(secs => %(seconds)s::float8)
    returning 1
)
select count(*) > 0 from taken
