select true from "pgqueue".job_live
where id = %(id)s and state = 'running' and lease = %(lease)s and worker_id = %(worker)s
