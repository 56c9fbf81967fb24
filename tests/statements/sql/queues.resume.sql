with found as (
    select q.name from "pgqueue".queue q where q.name = any(%(queues)s::text[]) and q.paused_at is not null
    order by q.name for update
), resumed as (
    update "pgqueue".queue q set paused_at = null, paused_until = null, paused_by = null, paused_reason = null,
        updated_at = clock_timestamp(), updated_by = %(by)s
    where q.name = any(array(select name from found)) returning q.name
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', resumed.name)) from resumed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select resumed.name from resumed, notified
