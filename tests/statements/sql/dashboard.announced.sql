select pg_catalog.array_agg(w.id order by w.id), w.tasks from "pgqueue".worker w
where w.kind = 'worker' and w.lost_at is null and w.heartbeat_at >= now() - pg_catalog.make_interval(secs => w.lease_seconds)
group by w.tasks
