select id from "pgqueue".job_live where id = any(%(ids)s::bigint[]) order by id
