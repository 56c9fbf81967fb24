with recursive waiting as not materialized (
    select queue::text, priority::smallint, run_at::timestamptz, id, attempt from "pgqueue".job_live where state = 'pending'
), lane(queue, priority) as (
    (select j.queue, j.priority from waiting j order by j.queue, j.priority desc limit 1)
    union all
    select rest.queue, rest.priority from lane cross join lateral (
        (select j.queue, j.priority from waiting j where j.queue = lane.queue and j.priority < lane.priority
         order by j.queue, j.priority desc limit 1)
        union all
        (select j.queue, j.priority from waiting j where j.queue > lane.queue
         order by j.queue, j.priority desc limit 1)
        order by queue limit 1) as rest
), few(kind, id) as materialized (select 0, id from (
    select later.id from lane cross join lateral (
        select j.id from waiting j where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
        order by j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or lane.queue = %(queue)s::text limit 10001) as k
    union all select 1, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.lane, j.priority desc limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000), picked as (
    select id from (
        (select j.id from "pgqueue".job_live j
         where j.id = any(array(select id from few where kind not in (select kind from many))::bigint[])
         and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and j.run_at::timestamptz > now() and j.attempt = 0 and case when j.lease > 0 then (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) is null else true end and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.created_at::timestamptz >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.created_at::timestamptz < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[]))
    and (%(before)s::bigint is null or j.id < %(before)s) order by j.id desc limit %(limit)s)
        union
        (select j.id from (
    select * from "pgqueue".job_live w
    where (%(before)s::bigint is null or w.id < %(before)s)
    and (%(ids)s::bigint[] is null or w.id = any(%(ids)s::bigint[]))
    order by w.id desc limit %(looked)s::int) j
         where exists (select from many) and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and j.run_at::timestamptz > now() and j.attempt = 0 and case when j.lease > 0 then (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) is null else true end and (%(task)s::text is null or j.task::text like %(task)s::text)
    and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    and (%(tag)s::text is null or %(tag)s::text = any(j.tags))
    and (%(since)s::timestamptz is null or j.created_at::timestamptz >= %(since)s::timestamptz)
    and (%(until)s::timestamptz is null or j.created_at::timestamptz < %(until)s::timestamptz)
    and (%(args)s::jsonb is null or j.args::jsonb @> %(args)s::jsonb)
    and (%(ids)s::bigint[] is null or j.id = any(%(ids)s::bigint[]))
    and (%(before)s::bigint is null or j.id < %(before)s) order by j.id desc limit %(limit)s)
    ) as found order by id desc limit %(limit)s
)
select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at,
    j.created_at, j.attempt, j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id,
    j.reason, j.result::text, j.error::text, j.progress::text, j.cancel_requested_at,
    j.headers::text, j.workflow_id, null
from "pgqueue".job j
where j.id = any(array(select id from picked)::bigint[])
order by j.id desc
