select extract(epoch from j.run_at::timestamptz - now())::float8, j.expires_at,
       j.expires_at <= now() and j.attempt = 0, j.unique_key is not null, coalesce(j.unique_live, false),
       coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.headers::jsonb ->> 'schedule'::text,
       j.headers::jsonb ->> 'tick'::text, served.workers, served.knowing, served.slots, served.running, j.lane
from "pgqueue".job_live j
cross join lateral (
    select pg_catalog.split_part(coalesce(j.headers::jsonb ->> '$version'::text, '1'), '+', 1) as version
) as needs
cross join lateral (
    select count(*)::int as workers, count(*) filter (where w.knows)::int as knowing,
           coalesce(pg_catalog.sum(w.slots) filter (where w.knows), 0)::int as slots,
           coalesce(pg_catalog.sum(w.running) filter (where w.knows), 0)::int as running
    from (
        select w.slots,
               (select count(*) from "pgqueue".job_live r where r.worker_id = w.id) as running,
               case needs.version when '1' then j.task::text else j.task::text || '@' || needs.version end
               = any(w.tasks) as knows
        from "pgqueue".worker w
        where w.kind = 'worker' and w.lost_at is null and not w.stopping and w.quiet_at is null
        and w.heartbeat_at > now() - w.lease_seconds * interval '1 s' and (j.queue::text = any(w.queues) or exists (select from pg_catalog.unnest(w.queues) as g
        where j.queue::text like pg_catalog.replace(pg_catalog.replace(g, '_', '!_'), '*', '%%') escape '!'))
    ) as w
) as served
where j.id = %(id)s::bigint
