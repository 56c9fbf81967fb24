with letter as materialized (
    select u.child_id as id from "pgqueue".unwanted_call u order by u.child_id limit %(at_most)s::int for update skip locked
), found as materialized (
    select j.* from letter cross join lateral (
        select j.id, j.state, j.workflow_id, j.cancel_requested_at from "pgqueue".job_live j where j.id = letter.id limit 1
    ) as j
), batch as materialized (
    select id, 'its caller has ended' as reason from found where state <> 'running' and workflow_id is null
), asked as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select id from found where state = 'running' and workflow_id is null))
    order by j.id for update skip locked
), requested as (
    update "pgqueue".job_live j set cancel_requested_at = coalesce(j.cancel_requested_at::timestamptz, now())
    where j.id = any(array(select id from asked)) and (j.state = 'running') is true
    returning j.id
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!cancel')) from requested where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), stopped as (
    update "pgqueue".workflow w set stop_reason = 'its caller has ended', stop_running = true
    where w.id = any(array(select distinct workflow_id from found)) and w.state = 'running' and w.stop_reason is null
    returning w.id
), edge as materialized (
    select d.parent_id, d.child_id, d.runs_after from "pgqueue".dependency d
    where d.parent_id = any(array(select id from batch)) and d.late is not true
), held as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select id from batch union select child_id from edge))
    order by j.id for update skip locked
), elsewhere as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select child_id from edge except select id from held)) and (j.waits_for = 'jobs') is true
), free as materialized (
    select o.id from batch o where o.id in (select id from held)
    and o.id not in (select e.parent_id from edge e where e.child_id in (select id from elsewhere))
), ended as (
    delete from "pgqueue".job_live j using batch b
    where j.id = any(array[b.id]) and b.id in (select id from free)
    and (j.state in ('pending', 'blocked')) is true
    returning j.*, 'cancelled' as target, case when (waits_for = 'jobs' and cancel_requested_at is not null) is true then 'skipped' else b.reason end as reason
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts, crash_count, lease, worker_id, claimed_at, workflow_id, ties, gate_id, target, reason
    from ended where target = 'cancelled'
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, target, attempt, lease, reason from ended
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
), waiters_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.ended', w.job_id::text)) + (select queues from children_notified)
    from ended cross join lateral (select job_id from "pgqueue".waiter where job_id = ended.id limit 1) as w
    where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), compensated as (
    select pg_catalog.count("pgqueue".compensate(id, lease, true)) from ended
    where headers::jsonb ? '$undo'::text and target <> 'succeeded'
), given_back as (
    select coalesce((select "pgqueue".give_back(pg_catalog.array_agg(m.id), pg_catalog.array_agg(m.lease)) from ended m
                     where m.lease > 0 and m.lane is not null and (select count(*) from workflows_told) >= 0 having count(*) > 0), 0::bigint) as places
), done as (
    delete from "pgqueue".unwanted_call u using letter l
    where u.child_id = any(array[l.id])
    and (l.id not in (select id from found) or l.id in (select id from ended) or l.id in (select id from requested)
         or l.id in (select id from found where workflow_id is not null))
    returning u.child_id
)
select child_id as id, 'moved' from done union all select id, 'unsettled' from stopped
union all select id, 'ready' from children_moved where ready and run_at <= statement_timestamp()
union all select id, 'doomed' from children_moved where doomed
union all select id, 'unsettled' from workflows_told where unsettled
union all select id, 'late' from tied where ties & 8 > 0
union all select child_id, 'called' from calls_ended
union all select queues, 'notified' from children_notified
union all select 0, 'notified' from waiters_notified, workers_notified, compensated, given_back
