select state, count(*), coalesce(pg_catalog.sum(count(*)) over () > %(most)s::numeric, false)
from (select state, finished_at from "pgqueue".job_finished order by id desc limit %(most)s::int + 1) as newest
where finished_at > now() - interval '1 hour' group by state
union all
select 'failed', count(*), coalesce(count(*) > %(most)s::int, false) from (
    select from "pgqueue".dead_letter where failed_at > now() - interval '1 hour'
    order by failed_at desc limit %(most)s::int + 1) as newest
having count(*) > 0
