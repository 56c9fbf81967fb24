with found as materialized (
    select id, state, task, queue from "pgqueue".job_live where id = any((select %(ids)s::bigint[])::bigint[])
    order by id for update
), ended as (
    delete from "pgqueue".job_live j using found
    where j.id = any(array[found.id]) and found.state in ('pending', 'blocked')
    returning j.*, 'cancelled' as target, %(reason)s::text as reason
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, target, reason
    from ended where target = 'cancelled'
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, target, attempt, lease, reason from ended
), waiters_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.ended', w.job_id::text))
    from ended cross join lateral (select job_id from "pgqueue".waiter where job_id = ended.id limit 1) as w
    where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), requested as (
    update "pgqueue".job_live j set cancel_requested_at = now() from found
    where j.id = any(array[found.id]) and found.state = 'running' and j.cancel_requested_at is null returning j.id
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!cancel')) from requested where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), compensated as (
    select pg_catalog.count("pgqueue".compensate(id, lease, true)) from ended
    where headers::jsonb ? '$undo'::text and target <> 'succeeded'
)
select found.id, found.state, found.task, found.queue from found, workers_notified, waiters_notified, compensated
