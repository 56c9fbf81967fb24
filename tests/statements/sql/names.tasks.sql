select found.name from (
    select distinct known.name from "pgqueue".worker w cross join lateral pg_catalog.unnest(w.tasks) as known(name)
    where pg_catalog.strpos(known.name, '@') = 0) as found(name)
where pg_catalog.left(found.name, pg_catalog.length(%(start)s::text)) = %(start)s::text
order by found.name limit %(most)s::int
