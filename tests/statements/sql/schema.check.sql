select count(j.expires_at), count(r.job_id) from "pgqueue".job_live j, "pgqueue".waiter r where false
