select d.id, d.task, d.queue, d.failed_at, d.reason, d.error ->> 'type'::text from "pgqueue".dead_letter d
where (%(ids)s::bigint[] is null or d.id = any(%(ids)s::bigint[])) and (%(task)s::text is null or d.task::text like %(task)s::text)
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
order by d.id limit %(limit)s::int
