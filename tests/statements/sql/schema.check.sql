select pg_catalog.count(j.expires_at), pg_catalog.count(r.job_id) from "pgqueue".job_live j, "pgqueue".waiter r where false
