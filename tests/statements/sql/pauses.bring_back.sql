with over as materialized (
    select u.name from pg_catalog.unnest((select %(tasks)s::text[])) as u(name)
    where not exists (select from "pgqueue".task_control c where c.task = u.name and c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))
), found as materialized (
    select first.id from over cross join lateral (
        select j.id from "pgqueue".job_live j
        where j.state = 'blocked' and j.waits_for = 'pause' and j.task::text = over.name
        order by j.run_at, j.id limit (select %(most)s::int) for update skip locked
    ) as first
    limit (select %(most)s::int)
), moved as (
    update "pgqueue".job_live j set state = case when j.lane is null then 'pending' else 'blocked' end,
        waits_for = case when j.lane is not null then 'turn' end
    where j.id = any(array(select id from found)) and (j.state = 'blocked') is true
    returning j.id, j.queue::text, j.run_at::timestamptz, j.state, j.attempt, j.lease, j.history
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'blocked', state, attempt, lease, 'task resumed' from moved where history
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from moved where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select moved.count from (select count(*) from moved) as moved, workers_notified
