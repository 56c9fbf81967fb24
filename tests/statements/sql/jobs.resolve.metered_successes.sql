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
    select l.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, null::float8 as seconds, false as failed,
           null::text[] as closes, l.jobs
    from (select (pg_catalog.array_agg(headers))[1] as headers, count(*) as jobs from ended
          group by lane, case when lane < 0 then id end) as l
), alike as (
    select buckets, failed, closes, seconds, pg_catalog.sum(jobs) as jobs
    from left_running group by buckets, failed, closes, seconds
), given_back as (
    select b.name, pg_catalog.sum(a.jobs)::bigint as jobs,
           pg_catalog.sum(case when a.failed then a.jobs else 0::numeric end)::int as failures,
           pg_catalog.bool_or(not a.failed) as succeeded, pg_catalog.max(case when b.name = any(a.closes) then a.seconds end) as seconds
    from alike a cross join lateral pg_catalog.jsonb_array_elements_text(a.buckets) as b(name) group by b.name
), freed_seen as materialized (
    select g.*, f.version from given_back g
    cross join lateral (
        select f.version from "pgqueue".limit_freed f where f.name = g.name order by f.version desc limit 1) as f
    order by g.name collate "C"
), freed_held as materialized (
    select s.*, f.closed_until is null or f.closed_until <= now() as counts,
           case when f.failing_since > now() - pg_catalog.make_interval(secs => r.breaker_seconds) then f.failures else 0 end
               as failures_before, f.opened > 0 as probed, r.breaker_failures, r.breaker_cooldown
    from freed_seen s
    cross join lateral (
        select * from "pgqueue".limit_freed f where f.name = any(array[s.name]) and f.version >= s.version for update) as f
    left join lateral (select * from "pgqueue".limit_rule r where r.name = f.rule limit 1) as r on true
), judged as (
    select h.*, h.counts and h.failures > 0
        and (h.probed or h.failures_before + h.failures >= h.breaker_failures) is true as opens
    from freed_held h
), freed as (
    update "pgqueue".limit_freed f
    set freed = f.freed + h.jobs, version = f.version + 1,
        closed_until = greatest(
            case when not (h.counts and h.succeeded and not h.opens) is true then f.closed_until end,
            now() + pg_catalog.make_interval(secs => h.seconds),
            case when h.opens then now() + pg_catalog.make_interval(
                secs => h.breaker_cooldown * 2::float8 ^ least(f.opened, 5)::float8) end),
        opened = case when h.opens then least(f.opened + 1, 1000)
                      when h.counts and h.succeeded then 0 else f.opened end,
        failures = case when h.opens or not h.counts or h.breaker_failures is null then 0
                        when h.succeeded and h.failures = 0 then 0
                        else h.failures_before + h.failures end,
        failing_since = case when h.opens or not h.counts or h.breaker_failures is null or h.succeeded
                                  and h.failures = 0 then null
                             when h.failures_before > 0 then f.failing_since
                             when h.failures > 0 then now() end
    from judged h where f.name = any(array[h.name]) and f.version >= h.version
)
select id from ended
