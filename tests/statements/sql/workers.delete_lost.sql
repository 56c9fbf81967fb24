delete from "pgqueue".worker w
where w.lost_at < now() - interval '1 hour'
and (select true from "pgqueue".job_live j where j.worker_id = w.id limit 1) is null
