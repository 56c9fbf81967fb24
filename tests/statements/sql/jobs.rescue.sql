with recursive gap(low, high) as (
    select pg_catalog.lag(id, 1, pg_catalog.repeat('0', 32)::uuid) over (order by id), id
    from (select id from "pgqueue".worker union all select pg_catalog.repeat('f', 32)::uuid) as w
), orphan(id, high) as (
    select low, high from gap union all
    select (select worker_id from "pgqueue".job_live where worker_id > o.id and worker_id < high order by 1 limit 1), high
    from orphan o where id is not null
), dead as materialized (
    select id, pg_catalog.format('worker on %%s, pid %%s, %%s', host, pid, coalesce(
    death || ' at '::text || lost_at::text, 'did not beat since '::text || heartbeat_at::text)) as why
    from "pgqueue".worker where lost_at is not null union all
    select id, 'the worker that ran this attempt has no row any more'
    from orphan where id is not null and id not in (select low from gap)
), lost as materialized (
    select found.*, dead.why,
        pg_catalog.jsonb_build_object('type', 'pgqueue.WorkerLost', 'message', dead.why) as error
    from dead cross join lateral (
        select j.id, j.lease, j.worker_id, j.attempt >= j.max_attempts
            or j.crash_count >= coalesce((%(limits)s::jsonb ->> j.task::text)::int,
            substring(j.headers::jsonb ->> '$max_crashes'::text, '^[1-9][0-9]{0,5}$')::int, %(max_crashes)s) - 1
        as spent
        from "pgqueue".job_live j where j.worker_id = dead.id and j.state = 'running'
        and (%(only)s::bigint is null or j.id = %(only)s)
        limit %(at_most)s for update skip locked
    ) as found limit %(at_most)s
), requeued as (
    update "pgqueue".job_live j
    set state = case when j.lane is null then 'pending' else 'blocked' end, waits_for = case when j.lane is not null then 'turn' end, worker_id = null, claimed_at = null,
        crash_count = j.crash_count + 1,
        run_at = now() + interval '1 s' * random()
        * case when j.crash_count > 0 then 2::float8 ^ least(j.crash_count, 6)::float8 else 0 end
    from lost where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = any(array[lost.lease])
    and not lost.spent and j.cancel_requested_at is null
    returning j.id, case when j.lane is null then 'pending' else 'blocked' end as target, j.attempt, j.lease, lost.error, j.task, j.queue, lost.worker_id, j.headers
), edge as materialized (
    select d.parent_id, d.child_id, d.runs_after from "pgqueue".dependency d
    where d.parent_id = any(array(select id from lost)) and d.late is not true
), held as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select id from lost union select child_id from edge))
    order by j.id for update skip locked
), elsewhere as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select child_id from edge except select id from held)) and (j.waits_for = 'jobs') is true
), free as materialized (
    select o.id from lost o where o.id in (select id from held)
    and o.id not in (select e.parent_id from edge e where e.child_id in (select id from elsewhere))
), ended as (
    delete from "pgqueue".job_live j using lost
    where j.id = any(array[lost.id]) and j.state = 'running' and j.lease = any(array[lost.lease])
    and (lost.spent or j.cancel_requested_at is not null) and lost.id in (select id from free)
    returning j.*, lost.error, lost.why, 'cancelled by request' as reason,
        case when j.cancel_requested_at is null then 'failed' else 'cancelled' end as target
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, target, reason
    from ended where target = 'cancelled'
), dead_lettered as (
    insert into "pgqueue".dead_letter (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
        max_attempts, crash_count, lease, worker_id, claimed_at, ties, gate_id, workflow_id, reason, error)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt,
        max_attempts, least(crash_count, 1000000) + 1, lease, worker_id, claimed_at, ties, gate_id,
        workflow_id, 'crashed',
        error || pg_catalog.jsonb_build_object('message', pg_catalog.concat_ws('; ', (
        select pg_catalog.string_agg(t.error ->> 'message'::text, '; ' order by t.at) from "pgqueue".transition t
        where t.job_id = ended.id and t.reason = 'rescued'), why))
    from ended where target = 'failed'
), moved as (
    select * from requeued
    union all select id, target, attempt, lease, error, task, queue, worker_id, headers from ended
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id, reason, error)
    select id, 'running', target, attempt, lease, %(worker)s, 'rescued', error from moved
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
    where g.id = any(array(select id from counted)) and (select count(*) from children_moved) >= 0
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
    select headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, null::float8 as seconds,
           case when target <> 'cancelled' then true end as failed, null::text[] as closes, 1::bigint as jobs
    from moved where headers::jsonb ? '$flow'::text and (select count(*) from workflows_told) >= 0
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
select id, target, task, queue, attempt, lease, worker_id, error ->> 'message'::text from moved, children_notified
