with few(kind, id) as materialized (select 0, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'task' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.task limit 10001) as k
    union all select 1, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'pause' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.task limit 10001) as k
    union all select 2, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'jobs' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.id limit 10001) as k
    union all select 3, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.lane, j.priority desc limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000), picked as (
    select id from (
        (select j.id from "pgqueue".job_live j
         where j.id = any(array(select id from few where kind not in (select kind from many))::bigint[])
         and (j.state = 'blocked' and j.waits_for = 'task' or j.state = 'blocked' and j.waits_for = 'pause' or j.state = 'blocked' and j.waits_for = 'jobs' or j.state = 'blocked' and j.waits_for = 'turn') and true and (%(task)s::text is null or j.task::text like %(task)s::text)
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
         where exists (select from many) and (j.state = 'blocked' and j.waits_for = 'task' or j.state = 'blocked' and j.waits_for = 'pause' or j.state = 'blocked' and j.waits_for = 'jobs' or j.state = 'blocked' and j.waits_for = 'turn') and true and (%(task)s::text is null or j.task::text like %(task)s::text)
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
