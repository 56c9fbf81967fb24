with actual as materialized (
    select count(*) as running from "pgqueue".job_live j
    where j.worker_id is not null and j.lane is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> pg_catalog.jsonb_build_array(%(name)s::text)
), old as materialized (
    select u.version, u.taken - f.freed as running, f.version as freed_version
    from (select u.* from "pgqueue".limit_use u where u.name = %(name)s::text order by u.version desc limit 1) as u
    cross join lateral (
        select f.* from "pgqueue".limit_freed f where f.name = u.name order by f.version desc limit 1) as f
), taken as (
    update "pgqueue".limit_use u set taken = u.taken + a.running - o.running, version = u.version + 1
    from actual a, old o
    where u.name = any(array[%(name)s::text]) and u.version >= o.version and a.running > o.running
), freed as (
    update "pgqueue".limit_freed f set freed = f.freed + o.running - a.running, version = f.version + 1
    from actual a, old o
    where f.name = any(array[%(name)s::text]) and f.version >= o.freed_version and a.running < o.running
)
select o.running, a.running from actual a, old o where a.running <> o.running
