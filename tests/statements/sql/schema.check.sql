select pg_catalog.count(j.expires_at), pg_catalog.count(a.jobs) from "pgqueue".job_live j, "pgqueue".activity a where false
