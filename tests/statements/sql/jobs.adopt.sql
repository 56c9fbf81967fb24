with picked as materialized (
    select found.id, 'blocked' as state
    from (
        select u.name, u.room, u.skip
        from unnest((select %(queues)s::text[]), (select %(rooms)s::int[]), (select %(skips)s::int[]))
             with ordinality as u(name, room, skip, ord)
        where not exists (select from "pgqueue".queue q where q.name = u.name and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
        and not exists (select from "pgqueue".worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
        order by u.ord
    ) as served
    cross join lateral (
        select parked.id
        from unnest(%(tasks)s::text[], %(versions)s::text[]) as known(task, version)
        cross join lateral (
            select j.id from "pgqueue".job_live j
            where not exists (select from "pgqueue".task_control c where c.task = known.task and c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))
            and j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
            and coalesce(j.headers::jsonb ->> '$version'::text, '1') = known.version and j.queue::text = served.name
            and j.run_at::timestamptz <= now() and (j.expires_at is null or j.expires_at > now() or j.attempt > 0)
            order by j.priority desc, j.run_at, j.id limit (select %(room)s::int) for update skip locked
        ) as parked
        limit served.room
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
