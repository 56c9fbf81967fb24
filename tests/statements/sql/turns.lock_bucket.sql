with freed as materialized (
    select f.name
    from (select version from "pgqueue".limit_freed where name = %(name)s::text order by version desc limit 1) as s
    cross join lateral (
        select f.name from "pgqueue".limit_freed f
        where f.name = any(array[%(name)s::text]) and f.version >= s.version for update) as f
)
select u.version from freed f
cross join lateral (select version from "pgqueue".limit_use where name = f.name order by version desc limit 1) as s
cross join lateral (
    select u.version from "pgqueue".limit_use u
    where u.name = any(array[f.name]) and u.version >= s.version for update) as u
