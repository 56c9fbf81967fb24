with ended as (
    delete from "pgqueue".job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running' and j.lane is null and j.ties is null
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    returning j.*
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, state)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, 'succeeded' from ended where history
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, 'running', 'succeeded', attempt, lease, worker_id from ended where history
)
select id from ended
