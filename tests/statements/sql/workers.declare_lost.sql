update "pgqueue".worker set lost_at = clock_timestamp(), waiting = false
where id in (select w.id from "pgqueue".worker w
             where w.lost_at is null
             and w.heartbeat_at < clock_timestamp() - pg_catalog.make_interval(secs => least(w.lease_seconds, 86400))
             for update skip locked)
returning id, kind, host, pid
