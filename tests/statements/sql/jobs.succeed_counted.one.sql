with ended as (
    delete from "pgqueue".job_live j
    where j.id = %(id)s::bigint and j.lease = %(lease)s::bigint and j.state = 'running' and j.lane is null and j.ties::int & 15 = 2
    returning j.*
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, state)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, 'succeeded' from ended where history returning 1
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, 'running', 'succeeded', attempt, lease, worker_id from ended where history returning 1
), gates_lowered as (
    update "pgqueue".gate g set remaining = g.remaining - 1
    where g.id = (select gate_id from ended) and (select count(*) from finished) + (select count(*) from logged) >= 0
    returning g.workflow_id, g.remaining = 0 and g.counted as closed, g.failed, g.cancelled
), told as (
    select workflow_id as id, 1 as gates, failed, cancelled, false as stops, false as forlorn
    from gates_lowered where closed
), workflows_told as (
    update "pgqueue".workflow w
    set open_gates = w.open_gates - t.gates, failed = w.failed + t.failed, cancelled = w.cancelled + t.cancelled,
        state = case when w.open_gates > t.gates then w.state when w.failed + t.failed > 0 then 'failed'
                     when w.cancelled + t.cancelled > 0 then 'cancelled' else 'succeeded' end,
        ended_at = case when w.open_gates = t.gates then clock_timestamp() end,
        stop_reason = coalesce(w.stop_reason, case when t.stops then 'a job failed' when t.forlorn
                               then 'the job in whose place it ran was cancelled' end),
        stop_running = w.stop_running or t.forlorn
    from told t where w.id = any(array[t.id])
    returning w.id, w.state <> 'running' or w.stop_reason is not null as unsettled
)
select id, 'moved' from ended
union all select id, 'unsettled' from workflows_told where unsettled
