select found.name from (
    select id::text from "pgqueue".worker where lost_at is null
    union select pg_catalog.concat_ws(':', host, pid::text) from "pgqueue".worker where lost_at is null) as found(name)
where pg_catalog.left(found.name, pg_catalog.length(%(start)s::text)) = %(start)s::text
order by found.name limit %(most)s::int
