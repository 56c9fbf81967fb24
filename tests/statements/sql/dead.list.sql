select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at, null
from "pgqueue".job j join "pgqueue".dead_letter d on d.id = j.id
where j.state = 'failed' and (%(before)s::bigint is null or d.id < %(before)s::bigint)
and (%(ids)s::bigint[] is null or d.id = any(%(ids)s::bigint[])) and (%(task)s::text is null or d.task::text like %(task)s::text)
    and (%(queue)s::text is null or d.queue::text = %(queue)s::text)
    and (%(error)s::text is null or d.error ->> 'type'::text = %(error)s::text
         or substring(d.error ->> 'type'::text, '[^.]*$'::text) = %(error)s::text)
    and (%(group)s::text is null
         or coalesce(d.fingerprint,
        case when d.reason = 'crashed' then 'crashed '::text || d.task::text
        else 'class '::text || coalesce(d.error ->> 'type'::text, d.reason) end) = %(group)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(d.tags))
    and (%(since)s::timestamptz is null or d.failed_at >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or d.failed_at < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or d.args::jsonb @> %(args)s::jsonb)
order by d.id desc limit %(limit)s::int
