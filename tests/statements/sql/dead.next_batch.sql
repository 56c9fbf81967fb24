with near as materialized (
    select d.id from "pgqueue".dead_letter d
    where d.id > %(after)s::bigint and (%(ids)s::bigint[] is null or d.id = any(%(ids)s::bigint[]))
    order by d.id limit %(window)s::int
), found as materialized (
    select d.id, d.task, d.args::text, d.headers::text from "pgqueue".dead_letter d
    where d.id = any(array(select id from near)) and d.failed_at <= %(started_at)s::timestamptz and (%(task)s::text is null or d.task::text like %(task)s::text)
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
    order by d.id limit %(limit)s::int for update
), seen as (
    select count(*) as found, pg_catalog.max(id) as last_found from found
)
select case when seen.found = %(limit)s::int then seen.last_found
            when (select count(*) from near) < %(window)s::int then null else (select pg_catalog.max(id) from near) end,
       found.id, found.task, found.args, found.headers
from seen left join found on true order by found.id
