with asked as (
    select id, heartbeat_at from "pgqueue".worker where id = any(%(ids)s::uuid[]) and lost_at is null
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!request ' || asked.id::text)) from asked where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select asked.id, asked.heartbeat_at from asked, notified
