with line as materialized (
    select l.ord, l.lane, l.most, l.run_at, l.id
    from unnest((select %(lanes)s::bigint[]), (select %(mosts)s::int[]), (select %(run_ats)s::timestamptz[]),
                (select %(ids)s::bigint[])) with ordinality as l(lane, most, run_at, id, ord)
    where not exists (select from "pgqueue".queue q where q.name = (select %(queue)s::text) and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
    and not exists (select from "pgqueue".worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
), picked as materialized (
    select c.id, 'blocked' as state
    from (select * from line order by ord) as o
    cross join lateral (
        select j.id from "pgqueue".job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = (select %(queue)s::text) and j.lane::bigint = o.lane
        and j.priority::smallint = (select %(priority)s::smallint) and ((case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id) > (o.run_at, o.id)
        and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now() and (j.expires_at is null or j.expires_at > now() or j.attempt > 0) and coalesce(j.task::text <> all((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[]), true)
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = '[]'::jsonb
        order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit o.most for update skip locked
    ) as c
    limit (select %(room)s::int)
), moved as (
    update "pgqueue".job_live j
    set state = 'running', waits_for = null, progress = null, attempt = j.attempt + 1,
        lease = least(j.lease, 4611686018427387903) + 1, worker_id = %(worker)s, claimed_at = now(),
        unique_key = case when j.unique_live then j.unique_key end
    where j.id = any(array(select id from picked)) and j.state = (select state from picked limit 1)
    returning j.id, j.task, j.queue, j.priority, j.args, j.tags, j.headers, j.run_at, j.created_at, j.attempt,
        j.max_attempts, j.lease, j.history, j.lane, j.ties
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, (select state from picked limit 1), 'running', attempt, lease, %(worker)s from moved where history
)
select id, task, queue, priority, args::text, case when pg_catalog.cardinality(tags) > 0 then tags end,
       nullif(headers::jsonb, '{}')::text, run_at, created_at, attempt, max_attempts, lease,
       date_part('epoch'::text, now() - run_at::timestamptz), lane, ties from moved
