with strays as materialized (
    select id, lease, cancel_requested_at from "pgqueue".job_live
    where worker_id = %(worker)s and state = 'running' and not id = any(%(held)s::bigint[]) for update
), requeued as (
    update "pgqueue".job_live j
    set state = 'pending', worker_id = null, claimed_at = null, attempt = j.attempt - 1
    from strays where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = any(array[strays.lease])
    and strays.cancel_requested_at is null
    returning j.id, 'pending' as target, j.attempt + 1 as attempt, j.lease, 'released' as reason
), ended as (
    delete from "pgqueue".job_live j using strays
    where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = any(array[strays.lease])
    and strays.cancel_requested_at is not null
    returning j.*, 'cancelled' as target, 'cancelled by request' as reason
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, target, reason
    from ended where target = 'cancelled'
), moved as (
    select id, target, attempt, lease, %(worker)s as worker_id, reason, null::jsonb as error from requeued
    union all
    select id, target, attempt, lease, %(worker)s, reason, null from ended
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, worker_id, reason, error from moved
)
select id from requeued union all select id from ended
