with late as materialized (
    select id, expires_at from "pgqueue".job_live
    where expires_at >= %(after)s::timestamptz and expires_at <= now() and expires_at is not null and attempt = 0
    and state in ('pending', 'blocked')
    order by expires_at limit %(at_most)s for update skip locked
), ended as (
    delete from "pgqueue".job_live j using late
    where j.id = any(array[late.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    returning j.*, 'cancelled' as target, 'expired' as reason
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
)
select id, task, queue, greatest(expires_at, '0001-01-01Z') from ended, waiters_notified order by expires_at
