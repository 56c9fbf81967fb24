with fitting as materialized (
    select j.id from (
        select * from "pgqueue".dead_letter w
        where w.id > %(after)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
        order by w.id limit %(window)s::int
    ) as j
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
), found as materialized (
    select j.id, j.task::text, j.args::text, j.headers::text from "pgqueue".dead_letter j
    where j.id = any(array(select id from fitting)) and (%(started_at)s::timestamptz is null or j.failed_at <= %(started_at)s::timestamptz) and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.failed_at >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.failed_at < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(error)s::text is null or j.error ->> 'type'::text = %(error)s::text
         or substring(j.error ->> 'type'::text, '[^.]*$'::text) = %(error)s::text)
    and (%(group)s::text is null or coalesce(j.fingerprint,
        case when j.reason = 'crashed' then 'crashed '::text || j.task::text
        else 'class '::text || coalesce(j.error ->> 'type'::text, j.reason) end) = %(group)s::text) order by j.id for update skip locked
), seen as (
    select count(*) as found, pg_catalog.max(id) as last_found from fitting
), looked as (
    select count(*) as jobs, pg_catalog.max(near.id) as last_id from (
        select w.id from "pgqueue".dead_letter w
        where w.id > %(after)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
        and (select seen.found from seen) < %(limit)s::int
        order by w.id limit %(window)s::int
    ) as near
)
select case when seen.found = %(limit)s::int then seen.last_found
            when looked.jobs < %(window)s::int then null else looked.last_id end,
       array(select id from fitting except select t.id from found as t),
       t.id, t.task, t.args, t.headers
from seen cross join looked left join found as t on true order by t.id
