with gone as (
    delete from "pgqueue".limit_key k where k.rule = %(rule)s::text and k.key = %(key)s::text and k.paused_at is null
    returning k.rule
), kept as (
    update "pgqueue".limit_key k set max_running = null, weight = null, updated_at = clock_timestamp(),
        updated_by = %(by)s::text
    where k.rule = %(rule)s::text and k.key = %(key)s::text and k.paused_at is not null
    returning k.rule
), changed as (
    select gone.rule from gone union all select kept.rule from kept
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from changed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select changed.rule from changed, notified
