with picked as (
    select j.id from (
    select * from "pgqueue".job w
    where (%(before)s::bigint is null or w.id < %(before)s)
    and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
    order by w.id desc limit %(looked)s::int) j where true and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.created_at::timestamptz >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.created_at::timestamptz < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[]))
    and (%(before)s::bigint is null or j.id < %(before)s) order by j.id desc limit %(limit)s
)
select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at,
    j.headers::text, j.workflow_id, null
from "pgqueue".job j
where j.id = any(array(select id from picked)::bigint[])
order by j.id desc
