with ended as (
    delete from "pgqueue".job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'running' and j.lane is not null and j.ties is null
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
), left_running as materialized (
    select e.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, count(*) as jobs from ended e group by 1
), given_back as (
    select b.name, pg_catalog.sum(l.jobs)::bigint as jobs
    from left_running l cross join lateral pg_catalog.jsonb_array_elements_text(l.buckets) as b(name) group by b.name
), freed_seen as materialized (
    select g.name, g.jobs, f.version from given_back g
    cross join lateral (
        select f.version from "pgqueue".limit_freed f where f.name = g.name order by f.version desc limit 1) as f
    order by g.name collate "C"
), freed_held as materialized (
    select s.* from freed_seen s
    cross join lateral (
        select from "pgqueue".limit_freed f where f.name = any(array[s.name]) and f.version >= s.version for update) as f
), freed as (
    update "pgqueue".limit_freed f
    set freed = f.freed + h.jobs, version = f.version + 1,
        closed_until = case when f.closed_until > now() then f.closed_until end,
        opened = case when f.closed_until > now() then f.opened else 0 end,
        failures = 0, failing_since = null
    from freed_held h where f.name = any(array[h.name]) and f.version >= h.version
)
select id from ended
