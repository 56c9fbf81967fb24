with paused as (
    update "pgqueue".limit_rule c set paused_at = case when c.paused_at is not null and (c.paused_until is null or c.paused_until > now()) then c.paused_at else clock_timestamp() end,
        paused_until = e.until, paused_by = %(by)s::text, paused_why = %(why)s::text,
        updated_at = clock_timestamp(), updated_by = %(by)s::text
    from (select coalesce(%(until)s::timestamptz,
                            clock_timestamp() + pg_catalog.make_interval(secs => %(seconds)s::float8)) as until) as e
    where (e.until is null or e.until > clock_timestamp()) and c.name = %(limit)s::text
    returning c.name
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from paused where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select paused.name from paused, notified
