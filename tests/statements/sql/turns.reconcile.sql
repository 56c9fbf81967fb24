with actual as materialized (
    select count(*)::int as running from "pgqueue".job_live j
    where j.worker_id is not null and j.lane is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> pg_catalog.jsonb_build_array(%(name)s::text)
), old as materialized (
    select u.version, u.running from "pgqueue".limit_use u where u.name = %(name)s::text order by u.version desc limit 1
)
update "pgqueue".limit_use u set running = a.running, version = u.version + 1
from actual a, old o
where u.name = any(array[%(name)s::text]) and u.version >= o.version and u.running <> a.running
returning o.running, u.running
