with picked as (
    select j.id from "pgqueue".dead_letter j
    where (%(before)s::bigint is null or j.id < %(before)s::bigint)
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[])) and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.failed_at >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.failed_at < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(error)s::text is null or j.error ->> 'type'::text = %(error)s::text
         or substring(j.error ->> 'type'::text, '[^.]*$'::text) = %(error)s::text)
    and (%(group)s::text is null or coalesce(j.fingerprint,
        case when j.reason = 'crashed' then 'crashed '::text || j.task::text
        else 'class '::text || coalesce(j.error ->> 'type'::text, j.reason) end) = %(group)s::text)
    order by j.id desc limit %(limit)s::int
)
select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at,
    j.headers::text, j.workflow_id, null
from "pgqueue".job j where j.id = any(array(select id from picked)::bigint[]) and j.state = 'failed' order by j.id desc
