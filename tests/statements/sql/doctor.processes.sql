select w.kind, w.host, w.pid, w.version || coalesce(' of release ' || w.release, ''), w.started_at, w.heartbeat_at,
       w.lost_at, coalesce(w.death, ''), w.lease_seconds,
       w.lost_at is null and w.heartbeat_at >= now() - pg_catalog.make_interval(secs => w.lease_seconds), w.duties
from "pgqueue".worker w order by w.started_at
