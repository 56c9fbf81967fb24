select id, heartbeat_at from "pgqueue".worker where id = any(%(ids)s::uuid[])
