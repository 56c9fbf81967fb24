with resumed as (
    update "pgqueue".limit_key c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = clock_timestamp(), updated_by = %(by)s::text
    where c.rule = %(limit)s::text and c.key = %(key)s::text and c.paused_at is not null returning c.key
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from resumed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select resumed.key from resumed, notified
