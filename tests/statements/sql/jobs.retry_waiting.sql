with found as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any((select %(ids)s::bigint[])::bigint[])
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for in ('turn', 'pause')) is true and j.attempt > 0 and j.run_at::timestamptz > now()
    order by j.id for update
), due as (
    update "pgqueue".job_live j
    set run_at = least(j.run_at::timestamptz, now()),
        priority = case when j.lane < 0::bigint then j.priority::smallint
                        else coalesce(%(priority)s::int::smallint, j.priority::smallint) end
    where j.id = any(array(select id from found))
    returning j.id, j.queue::text, j.run_at::timestamptz, j.attempt, j.lease, j.state
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, state, attempt, lease, %(reason)s::text from due
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from due where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select due.id from due, workers_notified
