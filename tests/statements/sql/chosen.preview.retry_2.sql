select j.id, j.task::text, j.queue::text, 'cancelled', j.created_at::timestamptz, j.reason, j.args::text, j.headers::text from (
    select * from "pgqueue".job_finished w
    where w.id >= %(unseen_below)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
    order by w.id limit %(looked)s::int) as j
where (%(started_at)s::timestamptz is null or j.finished_at <= %(started_at)s::timestamptz) and j.state = 'cancelled' and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.created_at::timestamptz >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.created_at::timestamptz < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb) order by j.id limit %(limit)s::int
