select id from "pgqueue".job_live
where id = any((select %(held)s::bigint[])::bigint[]) and worker_id = %(worker)s and state = 'running'
and cancel_requested_at is not null
