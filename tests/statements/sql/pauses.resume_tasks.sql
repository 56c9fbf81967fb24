with found as (
    select c.task from "pgqueue".task_control c where c.task = any(%(tasks)s::text[]) and c.paused_at is not null
    order by c.task for update
), resumed as (
    update "pgqueue".task_control c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = clock_timestamp(), updated_by = %(by)s
    where c.task = any(array(select task from found)) returning c.task
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from resumed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select resumed.task from resumed, notified
