with given as materialized (
    select g.*, case when target = 'blocked' and result like '{%%' then result::jsonb end as flow
    from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]), (select pg_catalog.string_to_array(%(targets)s, E'\n', '')),
        (select pg_catalog.string_to_array(%(reasons)s, E'\n', '')), (select pg_catalog.string_to_array(%(delays)s, ',', '')::float8[]),
        (select %(refunds)s::int[]),
        (select pg_catalog.string_to_array(%(results)s, E'\n', '')), (select pg_catalog.string_to_array(%(errors)s, E'\n', '')),
        (select pg_catalog.string_to_array(%(fingerprints)s, E'\n', '')))
        as g(id, lease, target, reason, delay, refund, result, error, fingerprint)
), edge as materialized (
    select d.parent_id, d.child_id, d.runs_after from "pgqueue".dependency d
    where d.parent_id = any(array(select id from given)) and d.late is not true
), held as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select child_id from edge
                           union select id from given where exists (select from edge)))
    order by j.id for update
), ended as (
    delete from "pgqueue".job_live j using given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease and j.lane is not null and j.ties is not null and (select count(*) from held) >= 0
    and (g.target in ('succeeded', 'cancelled', 'failed') or j.cancel_requested_at is not null)
    returning j.*, g.result, g.error, g.fingerprint, g.delay, g.refund,
        case when g.target in ('pending', 'blocked') then 'cancelled' else g.target end as target,
        case when g.target in ('pending', 'blocked') then 'cancelled by request' else g.reason end as reason
), kept as (
    update "pgqueue".job_live j
    set state = 'blocked', waits_for = 'turn',
        priority = coalesce((g.flow ->> 'priority'::text)::smallint, j.priority::smallint),
        headers = case when g.target = 'blocked' and g.result is not null then j.headers::jsonb || pg_catalog.jsonb_build_object(
            case when g.flow is null then '$version' else '$flow' end, coalesce(g.flow, pg_catalog.to_jsonb(g.result)))
            else j.headers end,
        run_at = coalesce(now() + pg_catalog.make_interval(secs => g.delay), j.run_at),
        attempt = j.attempt - g.refund, worker_id = null, claimed_at = null
    from given g
    where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease and j.lane is not null and j.ties is not null and (select count(*) from held) >= 0
    and g.target in ('pending', 'blocked') and j.cancel_requested_at is null
    returning j.id, 'blocked' as target, j.attempt + g.refund as attempt, j.lease, %(worker)s::uuid as worker_id,
        g.reason, g.error, j.headers, g.delay, g.refund
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, state, reason, result)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, target, reason, result::jsonb
    from ended where target = 'cancelled' or target = 'succeeded' and history returning 1
), dead_lettered as (
    insert into "pgqueue".dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, reason, error, fingerprint)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, coalesce(reason, 'failed'), error::jsonb, fingerprint
    from ended where target = 'failed'
), moved as (
    select id, target, attempt, lease, worker_id, reason, error::jsonb from ended
    where history or target <> 'succeeded'
    union all
    select id, target, attempt, lease, worker_id, reason, error::jsonb from kept
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, worker_id, reason, error from moved returning 1
), tied as materialized (
    select id, target, ties::int as ties, gate_id,
           (waits_for = 'jobs' and cancel_requested_at is not null) is true as skipped
    from ended where ties is not null and not (target = 'failed' and ties::int & 16 > 0)
), steps as materialized (
    select d.child_id as id, (count(*) filter (where (d.runs_after = 'e' or d.runs_after = 's' and t.target = 'succeeded'
        or d.runs_after = 'f' and t.target = 'failed')))::int as met, pg_catalog.bool_or(not (d.runs_after = 'e' or d.runs_after = 's' and t.target = 'succeeded'
        or d.runs_after = 'f' and t.target = 'failed')) as unmet
    from tied t join edge d on d.parent_id = t.id
    where t.ties & 1 > 0 and d.child_id not in (select id from ended)
    group by d.child_id
), children_moved as (
    update "pgqueue".job_live j
    set waits_on = j.waits_on - s.met,
        state = case when j.waits_on = s.met and not s.unmet and j.lane is null then 'pending' else 'blocked' end,
        waits_for = case when j.waits_on > s.met or s.unmet then 'jobs' when j.lane is not null then 'turn' end,
        run_at = case when j.waits_on > s.met or s.unmet then j.run_at::timestamptz
                      else greatest(j.run_at::timestamptz, statement_timestamp()) end,
        cancel_requested_at = case when s.unmet then now() end
    from steps s
    where j.id = any(array[s.id]) and (j.waits_for = 'jobs') is true and j.cancel_requested_at is null
    and (select count(*) from held) > 0
    returning j.id, j.queue::text as queue, j.run_at::timestamptz as run_at, j.attempt, j.lease, j.state,
        j.waits_for is distinct from 'jobs' as ready, j.cancel_requested_at is not null as doomed
), children_logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'blocked', state, attempt, lease, 'ready' from children_moved where ready
), calls_ended as (
    update "pgqueue".call c set ended = true, seen = false
    where c.child_id = any(array(select id from tied where ties & 4 > 0)) returning c.child_id
), children_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue)) + (
        select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!signal')) from calls_ended where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text) as queues
    from (select distinct queue from children_moved where ready and run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), counted as materialized (
    select t.gate_id as id, count(*)::int as ended, (count(*) filter (where t.target = 'failed'))::int as failed,
           (count(*) filter (where t.target = 'cancelled' and not t.skipped))::int as cancelled,
           pg_catalog.bool_or(t.target = 'failed' and t.ties & 32 > 0) as stops
    from tied t where t.ties & 2 > 0 group by t.gate_id
), gates_held as materialized (
    select g.id from "pgqueue".gate g
    where g.id = any(array(select id from counted)) and (select count(*) from children_moved) >= 0 and (select count(*) from finished) + (select count(*) from logged) >= 0
    order by g.id for update
), gates_lowered as (
    update "pgqueue".gate g
    set remaining = g.remaining - c.ended, failed = g.failed + c.failed, cancelled = g.cancelled + c.cancelled
    from counted c where g.id = any(array[c.id]) and (select count(*) from gates_held) > 0
    returning g.workflow_id, g.remaining = 0 and g.counted as closed, g.failed, g.cancelled, c.stops
), stand_ins as materialized (
    select e.parent_id as id from tied t cross join lateral (
        select d.parent_id from "pgqueue".dependency d
        where d.child_id = any(array[t.id]) and d.argument in ('pgqueue__result', 'pgqueue__results')) as e
    where t.ties & 64 > 0 and t.target = 'cancelled'
    and (select true from "pgqueue".workflow w where w.id = e.parent_id and w.state = 'running' limit 1)
), told as materialized (
    select id, (count(*) filter (where closed))::int as gates,
           coalesce(pg_catalog.sum(failed) filter (where closed), 0::bigint)::int as failed,
           coalesce(pg_catalog.sum(cancelled) filter (where closed), 0::bigint)::int as cancelled, pg_catalog.bool_or(stops) as stops,
           pg_catalog.bool_or(forlorn) as forlorn
    from (select workflow_id as id, closed, failed, cancelled, stops, false as forlorn from gates_lowered
          union all select id, false, 0, 0, false, true from stand_ins) as l
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
), left_running as materialized (
    select m.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets,
        case when m.refund = 1 then m.delay end as seconds,
        case when m.target = 'succeeded' then false when m.target <> 'cancelled' and m.refund = 0 then true end
            as failed,
        (select pg_catalog.array_agg(c.bucket) from unnest((select %(closing)s::bigint[]), (select %(closed)s::text[]))
         as c(id, bucket) where c.id = m.id) as closes, 1::bigint as jobs
    from (select id, headers, target, delay, refund from ended
          union all select id, headers, target, delay, refund from kept) as m where (select count(*) from workflows_told) >= 0
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
), stopped as (
    insert into "pgqueue".limit_key as c (rule, key, paused_at, paused_by, paused_why, updated_by)
    select distinct on (k.rule, k.key) k.rule, k.key, now(), 'pgqueue', pg_catalog.concat_ws(' ', 'dead letter', e.id), 'pgqueue'
    from (select id, headers from ended where target = 'failed' and lane is not null and (select count(*) from workflows_told) >= 0) as e
    cross join lateral (
        select pg_catalog.split_part(b.name, '/', 1) as rule, pg_catalog.substr(b.name, position('/' in b.name) + 1) as key
        from pg_catalog.jsonb_array_elements_text(headers::jsonb -> '$flow'::text -> 'buckets'::text) as b(name)) as k
    cross join lateral (
        select from "pgqueue".limit_rule r where r.name = k.rule and r.kind = 'order' and r.on_dead = 'stop' limit 1) as r
    order by k.rule, k.key, e.id
    on conflict (rule, key) do update set paused_at = excluded.paused_at, paused_until = null,
        paused_by = excluded.paused_by, paused_why = excluded.paused_why, updated_at = now(),
        updated_by = excluded.updated_by
)
select id, 'moved' from ended union all select id, 'moved' from kept
union all select id, 'ready' from children_moved where ready and run_at <= statement_timestamp()
union all select id, 'doomed' from children_moved where doomed
union all select id, 'unsettled' from workflows_told where unsettled
union all select id, 'late' from tied where ties & 8 > 0
union all select child_id, 'called' from calls_ended
union all select queues, 'notified' from children_notified
