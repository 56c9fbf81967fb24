with ended as (
    delete from "pgqueue".job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running' and j.lane is null and j.ties::int & 15 = 2
    and case when (j.id, j.lease) in (
        select id, lease from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    ) then true end
    returning j.*
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, state)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, 'succeeded' from ended where history returning 1
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, 'running', 'succeeded', attempt, lease, worker_id from ended where history returning 1
), tied as (
    select id, 'succeeded'::text as target, 2 as ties, gate_id, false as skipped from ended
), counted as materialized (
    select t.gate_id as id, count(*)::int as ended, (count(*) filter (where t.target = 'failed'))::int as failed,
           (count(*) filter (where t.target = 'cancelled' and not t.skipped))::int as cancelled,
           pg_catalog.bool_or(t.target = 'failed' and t.ties & 32 > 0) as stops
    from tied t where t.ties & 2 > 0 group by t.gate_id
), gates_held as materialized (
    select g.id from "pgqueue".gate g
    where g.id = any(array(select id from counted)) and (select count(*) from finished) + (select count(*) from logged) >= 0
    order by g.id for update
), gates_lowered as (
    update "pgqueue".gate g
    set remaining = g.remaining - c.ended, failed = g.failed + c.failed, cancelled = g.cancelled + c.cancelled
    from counted c where g.id = any(array[c.id]) and (select count(*) from gates_held) > 0
    returning g.workflow_id, g.remaining = 0 and g.counted as closed, g.failed, g.cancelled, c.stops
), told as materialized (
    select id, (count(*) filter (where closed))::int as gates,
           coalesce(pg_catalog.sum(failed) filter (where closed), 0::bigint)::int as failed,
           coalesce(pg_catalog.sum(cancelled) filter (where closed), 0::bigint)::int as cancelled, pg_catalog.bool_or(stops) as stops,
           pg_catalog.bool_or(forlorn) as forlorn
    from (select workflow_id as id, closed, failed, cancelled, stops, false as forlorn from gates_lowered) as l
    group by id having pg_catalog.bool_or(closed or stops or forlorn)
), workflows_held as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select id from told)) order by w.id for no key update
), workflows_told as (
    update "pgqueue".workflow w
    set open_gates = w.open_gates - t.gates, failed = w.failed + t.failed, cancelled = w.cancelled + t.cancelled,
        state = case when w.open_gates > t.gates then w.state when w.failed + t.failed > 0 then 'failed'
                     when w.cancelled + t.cancelled > 0 then 'cancelled' else 'succeeded' end,
        ended_at = case when w.open_gates = t.gates then clock_timestamp() end,
        stop_reason = coalesce(w.stop_reason, case when t.stops then 'a job failed' when t.forlorn
                               then 'the job in whose place it ran was cancelled' end),
        stop_running = w.stop_running or t.forlorn
    from told t where w.id = any(array[t.id]) and (select count(*) from workflows_held) > 0
    returning w.id, w.state <> 'running' or w.stop_reason is not null as unsettled
)
select id, 'moved' from ended
union all select id, 'unsettled' from workflows_told where unsettled
