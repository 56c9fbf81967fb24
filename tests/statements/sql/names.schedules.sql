select found.name from (select name from "pgqueue".schedule) as found(name)
where pg_catalog.left(found.name, pg_catalog.length(%(start)s::text)) = %(start)s::text
order by found.name limit %(most)s::int
