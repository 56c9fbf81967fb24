select w.id, w.kind, w.host, w.pid, w.version, w.queues, w.slots, w.running::int, w.status, w.heartbeat_age_seconds,
       w.started_at, w.death, w.duties, w.release, w.rss_bytes, w.health_address, w.quiet_at, w.requested,
       w.requested_at, w.requested_by, w.shares, w.limits, w.max_wait
from "pgqueue".worker_health w order by w.kind, w.started_at
