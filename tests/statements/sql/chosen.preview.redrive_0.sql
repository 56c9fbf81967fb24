select j.id, j.task::text, j.queue::text, 'failed', j.created_at::timestamptz, coalesce(j.error ->> 'type'::text, j.reason), j.args::text, j.headers::text from (
    select * from "pgqueue".dead_letter w
    where w.id >= %(unseen_below)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
    order by w.id limit %(looked)s::int) as j
where (%(started_at)s::timestamptz is null or j.failed_at <= %(started_at)s::timestamptz) and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.failed_at >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.failed_at < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(error)s::text is null or j.error ->> 'type'::text = %(error)s::text
         or substring(j.error ->> 'type'::text, '[^.]*$'::text) = %(error)s::text)
    and (%(group)s::text is null or coalesce(j.fingerprint,
        case when j.reason = 'crashed' then 'crashed '::text || j.task::text
        else 'class '::text || coalesce(j.error ->> 'type'::text, j.reason) end) = %(group)s::text) order by j.id limit %(limit)s::int
