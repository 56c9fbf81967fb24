with picked as materialized (
    select found.id, 'pending' as state
    from (
        select u.name, u.room, u.skip
        from unnest((select %(queues)s::text[]), (select %(rooms)s::int[]), (select %(skips)s::int[]))
             with ordinality as u(name, room, skip, ord)
        where not exists (select from "pgqueue".queue q where q.name = u.name and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
        and not exists (select from "pgqueue".worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
        order by u.ord
    ) as served
    cross join lateral (
        with recursive hop(priority) as (
            (select j.priority::smallint from "pgqueue".job_live j where j.state = 'pending' and j.queue::text = served.name
             order by j.priority desc limit 1)
            union all
            select (select j.priority::smallint from "pgqueue".job_live j
                    where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint < hop.priority
                    order by j.priority desc limit 1)
            from hop where hop.priority is not null
        )
        select ready.id
        from (select hop.priority, '-infinity'::timestamptz as run_at, 0::bigint as id
              from hop where hop.priority is not null order by hop.priority desc) as lane
        cross join lateral (
            select j.id from "pgqueue".job_live j
            where j.state = 'pending' and j.queue::text = served.name and j.priority::smallint = lane.priority
            and j.run_at::timestamptz <= now() and (j.run_at::timestamptz, j.id) > (lane.run_at, lane.id)
            and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
            and coalesce(j.task::text <> all((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[]), true)
            order by j.run_at, j.id limit (select %(room)s::int) for update skip locked
        ) as ready
        limit served.room offset served.skip
    ) as found
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
       date_part('epoch'::text, now() - run_at::timestamptz), lane, ties
from moved
order by pg_catalog.array_position((select %(queues)s::text[]), queue::text), priority desc, run_at, id
