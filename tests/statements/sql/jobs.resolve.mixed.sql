with given as materialized (
    select g.*, case when target = 'blocked' and result like '{%%' then result::jsonb end as flow
    from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select pg_catalog.string_to_array(%(targets)s, E'\n', '')),
        (select pg_catalog.string_to_array(%(reasons)s, E'\n', '')), (select pg_catalog.string_to_array(%(delays)s, ',', '')::float8[]),
        (select %(refunds)s::int[]),
        (select pg_catalog.string_to_array(%(results)s, E'\n', '')), (select pg_catalog.string_to_array(%(errors)s, E'\n', '')),
        (select pg_catalog.string_to_array(%(fingerprints)s, E'\n', '')))
        as g(id, lease, target, reason, delay, refund, result, error, fingerprint)
), ended as (
    delete from "pgqueue".job_live j using given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease and j.lane is null and j.ties is null
    and (g.target in ('succeeded', 'cancelled', 'failed') or j.cancel_requested_at is not null)
    returning j.*, g.result, g.error, g.fingerprint, g.delay, g.refund,
        case when g.target in ('pending', 'blocked') then 'cancelled' else g.target end as target,
        case when g.target in ('pending', 'blocked') then 'cancelled by request' else g.reason end as reason
), kept as (
    update "pgqueue".job_live j
    set state = g.target, lane = (g.flow ->> 'lane'::text)::bigint,
        waits_for = case when g.flow is not null then 'turn' when g.target = 'blocked' then 'task' end,
        priority = coalesce((g.flow ->> 'priority'::text)::smallint, j.priority::smallint),
        headers = case when g.target = 'blocked' and g.result is not null then j.headers::jsonb || pg_catalog.jsonb_build_object(
            case when g.flow is null then '$version' else '$flow' end, coalesce(g.flow, pg_catalog.to_jsonb(g.result)))
            else j.headers end,
        run_at = coalesce(now() + pg_catalog.make_interval(secs => g.delay), j.run_at),
        attempt = j.attempt - g.refund, worker_id = null, claimed_at = null
    from given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease and j.lane is null and j.ties is null
    and g.target in ('pending', 'blocked') and j.cancel_requested_at is null
    returning j.id, g.target as target, j.attempt + g.refund as attempt, j.lease, %(worker)s::uuid as worker_id,
        g.reason, g.error
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, state, reason, result)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, target, reason, result::jsonb
    from ended where target = 'cancelled' or target = 'succeeded' and history
), dead_lettered as (
    insert into "pgqueue".dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, reason, error, fingerprint)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, coalesce(reason, 'failed'), error::jsonb, fingerprint
    from ended where target = 'failed'
), moved as (
    select id, target, attempt, lease, worker_id, reason, error::jsonb from ended
    where history or target <> 'succeeded'
    union all
    select id, target, attempt, lease, worker_id, reason, error::jsonb from kept
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, worker_id, reason, error from moved
)
select id from ended union all select id from kept
