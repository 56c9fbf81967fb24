with idle as materialized (
    select u.name, u.version from "pgqueue".limit_use u
    where u.running = 0 and u.opened = 0 and u.tat < now() - interval '1 hour'
    and (u.closed_until is null or u.closed_until < now() - interval '1 hour')
    limit %(at_most)s::int for update skip locked
), gone as (
    delete from "pgqueue".limit_use u using idle
    where u.name = any(array[idle.name]) and u.version >= idle.version returning u.name
), dropped as (
    delete from "pgqueue".limit_bucket b where b.name = any(array(select name from gone))
)
select count(*) from gone
