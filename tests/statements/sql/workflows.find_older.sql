select pg_catalog.concat_ws(' ', w.host, 'pid', w.pid, 'version', w.version) from "pgqueue".worker w
where w.kind = 'worker' and w.lost_at is null and (w.knows is null or w.knows < %(knows)s::text)
and w.heartbeat_at > now() - pg_catalog.make_interval(secs => w.lease_seconds) limit 1
