with strays as materialized (
    select id, lease, cancel_requested_at from "pgqueue".job_live
    where worker_id = %(worker)s and state = 'running' and not id = any(%(held)s::bigint[]) for update
), requeued as (
    update "pgqueue".job_live j
    set state = case when j.lane is null then 'pending' else 'blocked' end, waits_for = case when j.lane is not null then 'turn' end, worker_id = null, claimed_at = null, attempt = j.attempt - 1
    from strays where j.id = any(array[strays.id]) and j.state = 'running' and j.lease = any(array[strays.lease])
    and strays.cancel_requested_at is null
    returning j.id, case when j.lane is null then 'pending' else 'blocked' end as target, j.attempt + 1 as attempt, j.lease, 'released' as reason, j.headers
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
), left_running as materialized (
    select l.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, null::float8 as seconds,
           null::bool as failed, null::text[] as closes
    from (select headers from requeued union all select headers from ended) as l
    where l.headers::jsonb ? '$flow'::text
), alike as (
    select buckets, failed, closes, seconds, count(*) as jobs
    from left_running group by buckets, failed, closes, seconds
), given_back as (
    select b.name, pg_catalog.sum(a.jobs)::int as jobs, pg_catalog.sum(case when a.failed then a.jobs else 0::bigint end)::int as failures,
           pg_catalog.bool_or(not a.failed) as succeeded, pg_catalog.max(case when b.name = any(a.closes) then a.seconds end) as seconds
    from alike a cross join lateral pg_catalog.jsonb_array_elements_text(a.buckets) as b(name) group by b.name
), freed_seen as materialized (
    select g.*, u.version from given_back g
    cross join lateral (
        select u.version from "pgqueue".limit_use u where u.name = g.name order by u.version desc limit 1) as u
    order by g.name collate "C"
), freed_held as materialized (
    select f.*, u.closed_until is null or u.closed_until <= now() as counts,
           case when u.failing_since > now() - pg_catalog.make_interval(secs => r.breaker_seconds) then u.failures else 0 end
               as failures_before, u.opened > 0 as probed, r.breaker_failures, r.breaker_cooldown
    from freed_seen f
    cross join lateral (
        select * from "pgqueue".limit_use u where u.name = any(array[f.name]) and u.version >= f.version for update) as u
    left join lateral (select * from "pgqueue".limit_rule r where r.name = u.rule limit 1) as r on true
), judged as (
    select h.*, h.counts and h.failures > 0
        and (h.probed or h.failures_before + h.failures >= h.breaker_failures) is true as opens
    from freed_held h
), freed as (
    update "pgqueue".limit_use u
    set running = greatest(u.running - h.jobs, 0), version = u.version + 1,
        closed_until = greatest(
            case when not (h.counts and h.succeeded and not h.opens) is true then u.closed_until end,
            now() + pg_catalog.make_interval(secs => h.seconds),
            case when h.opens then now() + pg_catalog.make_interval(
                secs => h.breaker_cooldown * 2::float8 ^ least(u.opened, 5)::float8) end),
        opened = case when h.opens then least(u.opened + 1, 1000)
                      when h.counts and h.succeeded then 0 else u.opened end,
        failures = case when h.opens or not h.counts or h.breaker_failures is null then 0
                        when h.succeeded and h.failures = 0 then 0
                        else h.failures_before + h.failures end,
        failing_since = case when h.opens or not h.counts or h.breaker_failures is null or h.succeeded
                                  and h.failures = 0 then null
                             when h.failures_before > 0 then u.failing_since
                             when h.failures > 0 then now() end
    from judged h where u.name = any(array[h.name]) and u.version >= h.version
), compensated as (
    select pg_catalog.count("pgqueue".compensate(id, lease, true)) from ended
    where headers::jsonb ? '$undo'::text and target <> 'succeeded'
)
select id from requeued union all select ended.id from ended, compensated
