select a.task, pg_catalog.sum(a.jobs)::bigint, coalesce(pg_catalog.sum(a.jobs) filter (where a.outcome = 'failed'), 0)::bigint,
       pg_catalog.sum(a.run_seconds)
from "pgqueue".activity a
where a.at > now() - interval '1 hour' and a.queue = %(queue)s::text
and a.outcome in ('succeeded', 'retried', 'failed')
group by 1 order by 2 desc, 1 limit %(limit)s::int
