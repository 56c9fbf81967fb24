with found as materialized (
    select id from "pgqueue".worker
    where id = any(%(ids)s::uuid[]) and lost_at is null and (kind = 'worker' or %(what)s = 'stop')
    order by id for update
), asked as (
    update "pgqueue".worker set requested = %(what)s, requested_at = clock_timestamp(), requested_by = %(by)s
    where id = any(array(select id from found)) and lost_at is null returning id
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!request ' || asked.id::text)) from asked where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select asked.id from asked, notified
