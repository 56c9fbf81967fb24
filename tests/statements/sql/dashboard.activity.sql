select pg_catalog.floor(date_part('epoch'::text, now() - a.at) / %(step)s::float8)::int, a.outcome, pg_catalog.sum(a.jobs)::bigint,
       pg_catalog.sum(a.run_seconds), pg_catalog.sum(a.wait_seconds)
from "pgqueue".activity a
where a.at > now() - pg_catalog.make_interval(secs => %(step)s::float8 * %(last)s::float8)
and a.at <= now() - pg_catalog.make_interval(secs => %(step)s::float8 * %(first)s::float8)
and (%(queue)s::text is null or a.queue = %(queue)s::text) and (%(task)s::text is null or a.task = %(task)s::text)
group by 1, 2
