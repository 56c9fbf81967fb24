select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at,
    j.headers::text, j.workflow_id,
    (select pg_catalog.json_agg(pg_catalog.json_build_array(a.attempt, a.started_at, a.ended_at, a.to_state, a.reason, a.error, a.worker_id)
                     order by a.lease)::text
     from "pgqueue".attempt a where a.job_id = j.id)
from "pgqueue".job j where j.id = %(id)s
