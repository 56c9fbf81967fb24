select name, task, plan, timezone, state, next_tick, lag_seconds, last_tick, last_outcome, last_reason, last_job_id,
       last_lag_seconds, fired_in_a_day, missed_in_a_day, skipped_in_a_day, queued, misfire, grace_seconds, overlap,
       max_running, paused_at, paused_by, paused_until, disabled_at, app, edited_at, edited_by, error
from "pgqueue".schedule_status
where (%(name)s::text is null or name = %(name)s) and (%(after)s::text is null or name > %(after)s)
order by name limit %(limit)s
