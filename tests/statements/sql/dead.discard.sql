with gone as (
    delete from "pgqueue".dead_letter where id = any(%(ids)s::bigint[]) returning *
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, 'cancelled', %(reason)s::text from gone
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'failed', 'cancelled', attempt, lease, %(reason)s::text from gone
)
select count(*) from gone
