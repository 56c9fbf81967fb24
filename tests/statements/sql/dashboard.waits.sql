select a.queue, pg_catalog.floor(date_part('epoch'::text, now() - a.at) / %(step)s::float8)::int, pg_catalog.sum(a.jobs)::bigint,
       pg_catalog.sum(a.wait_seconds)
from "pgqueue".activity a
where a.at > now() - pg_catalog.make_interval(secs => %(step)s::float8 * %(steps)s::float8)
and a.outcome in ('succeeded', 'retried', 'failed') group by 1, 2
