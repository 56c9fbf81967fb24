with single as materialized (
    select j.id, j.workflow_id from "pgqueue".job_finished j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.workflow_id is not null and (j.ties is null or j.ties::int = 4)
), beside as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select workflow_id from single))
    order by w.id for key share skip locked
), stay as materialized (
    select o.id from single o join "pgqueue".workflow w on w.id = any(array[o.workflow_id])
    where w.id not in (select id from beside)
), gone as (
    delete from "pgqueue".job_finished j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.state = 'cancelled'
    and (j.ties is null or j.ties::int = 4) and j.id not in (select id from stay)
    returning j.*, (j.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as lane
), back as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, lane, state, waits_for, ties, workflow_id)
    select id, task, queue, priority, args, tags, headers, now(), created_at, 0, max_attempts, 0, lease,
           lane, case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end,
           ties, workflow_id
    from gone
    returning id, queue::text, run_at::timestamptz, lease, state
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, lease, reason)
    select id, 'cancelled', state, lease, %(reason)s::text from back
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from back where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select back.id from back, workers_notified
