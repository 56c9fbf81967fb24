select j.id from "pgqueue".job_live j where j.worker_id is not null and j.state = 'running'
and not exists (select from "pgqueue".worker w where w.id = j.worker_id and w.lost_at is null)
order by j.id limit %(at_most)s
