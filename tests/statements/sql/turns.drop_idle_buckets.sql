with idle as materialized (
    select u.name, u.version, f.version as freed_version
    from "pgqueue".limit_use u join "pgqueue".limit_freed f on f.name = u.name
    where u.taken <= f.freed and f.opened = 0 and u.tat < now() - interval '1 hour'
    and (f.closed_until is null or f.closed_until < now() - interval '1 hour')
    limit %(at_most)s::int for update skip locked
), freed as (
    delete from "pgqueue".limit_freed f using idle
    where f.name = any(array[idle.name]) and f.version >= idle.freed_version
), gone as (
    delete from "pgqueue".limit_use u using idle
    where u.name = any(array[idle.name]) and u.version >= idle.version returning u.name
), dropped as (
    delete from "pgqueue".limit_bucket b where b.name = any(array(select name from gone))
)
select count(*) from gone
