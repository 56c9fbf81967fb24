with fitting as materialized (
    select j.id from (
        select * from "pgqueue".job_live w
        where w.id > %(after)s::bigint and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
        order by w.id limit %(window)s::int
    ) as j
    where (%(started_at)s::timestamptz is null or j.created_at::timestamptz <= %(started_at)s::timestamptz) and (j.state = 'pending' or j.state = 'blocked' and j.waits_for in ('turn', 'pause')) and (j.run_at::timestamptz > now()
         or %(priority)s::int is not null and j.priority::smallint <> %(priority)s::int
         and (j.lane < 0::bigint) is not true) and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.created_at::timestamptz >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.created_at::timestamptz < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(state)s::text is null or j.state = %(state)s::text
         or (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and case %(state)s::text
             when 'scheduled' then j.attempt = 0 and j.run_at::timestamptz > now()
                 and case when j.lease > 0 then (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) is null else true end
             when 'sleeping' then j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
                 and coalesce((select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) = 'sleeping', false)
             when 'waiting' then j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
                 and coalesce((select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) = 'waiting', false)
             when 'retrying' then j.attempt > 0 end) order by j.id limit %(limit)s::int
), found as materialized (
    select j.id, j.task::text, j.args::text, j.headers::text from "pgqueue".job_live j
    where j.id = any(array(select id from fitting)) and (%(started_at)s::timestamptz is null or j.created_at::timestamptz <= %(started_at)s::timestamptz) and (j.state = 'pending' or j.state = 'blocked' and j.waits_for in ('turn', 'pause')) and (j.run_at::timestamptz > now()
         or %(priority)s::int is not null and j.priority::smallint <> %(priority)s::int
         and (j.lane < 0::bigint) is not true) and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.created_at::timestamptz >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.created_at::timestamptz < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(state)s::text is null or j.state = %(state)s::text
         or (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and case %(state)s::text
             when 'scheduled' then j.attempt = 0 and j.run_at::timestamptz > now()
                 and case when j.lease > 0 then (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) is null else true end
             when 'sleeping' then j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
                 and coalesce((select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) = 'sleeping', false)
             when 'waiting' then j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
                 and coalesce((select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) = 'waiting', false)
             when 'retrying' then j.attempt > 0 end) order by j.id for update skip locked
), seen as (
    select count(*) as found, pg_catalog.max(id) as last_found from fitting
), looked as (
    select count(*) as jobs, pg_catalog.max(near.id) as last_id from (
        select w.id from "pgqueue".job_live w
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
