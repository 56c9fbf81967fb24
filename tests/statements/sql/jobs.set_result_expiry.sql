insert into "pgqueue".result_expiry (job_id, finished_at, expires_at)
select g.id, j.finished_at, clock_timestamp() + pg_catalog.make_interval(secs => g.ttl)
from unnest((select %(ids)s::bigint[]), (select %(ttls)s::float8[])) as g(id, ttl)
cross join lateral (
    select f.finished_at from "pgqueue".job_finished f
    where f.id = g.id and f.finished_at >= now() - interval '1 minute' and f.result is not null limit 1
) as j
on conflict (job_id) do update set finished_at = excluded.finished_at, expires_at = excluded.expires_at
