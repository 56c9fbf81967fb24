select queue, count(*), coalesce(pg_catalog.sum(count(*)) over () > %(most)s::numeric, false) from (
    select queue from "pgqueue".dead_letter where failed_at > now() - interval '1 hour'
    order by failed_at desc limit %(most)s::int + 1) as newest
group by queue order by queue
