select pg_catalog.count(j.expires_at), pg_catalog.count(w.quiet_at), pg_catalog.count(q.paused_until), pg_catalog.count(s.value)
from "pgqueue".job_live j, "pgqueue".worker w, "pgqueue".queue q, "pgqueue".setting s where false
