with recursive resting(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 and j.queue::text > resting.queue
            order by j.queue limit 1)
    from resting where resting.queue is not null
), few(kind, id) as materialized (select 0, id from (
    select later.id from resting cross join lateral (
        select j.id from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and j.queue::text = resting.queue
        order by j.queue, j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or resting.queue = %(queue)s::text limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000), picked as (
    select id from (
        (select j.id from "pgqueue".job_live j
         where j.id = any(array(select id from few where kind not in (select kind from many))::bigint[])
         and (j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn')) and (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) = 'sleeping' and (%(task)s::text is null or j.task::text like %(task)s::text)
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
         where exists (select from many) and (j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn')) and (select case pg_catalog.bool_or(not t.done) when true then 'waiting' when false then 'sleeping' end
        from "pgqueue".step t
        where t.job_id = j.id and (not t.done or t.kind = 'sleep' and t.wake_at > now())) = 'sleeping' and (%(task)s::text is null or j.task::text like %(task)s::text)
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
