select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at,
    j.headers::text, j.workflow_id, null,
    case when j.state = 'succeeded' and j.result is null then (
        select t.error::text from "pgqueue".transition t
        where t.job_id = j.id and t.at >= j.finished_at and t.to_state = 'succeeded' limit 1) end
from "pgqueue".job j where j.id = any((select %(ids)s::bigint[])::bigint[])
