with changed as (
    update "pgqueue".limit_rule r set max_running = (r.declared ->> 'max_running'::text)::int,
        rate_count = (r.declared ->> 'rate_count'::text)::int,
        rate_seconds = (r.declared ->> 'rate_seconds'::text)::float8,
        rate_burst = (r.declared ->> 'rate_burst'::text)::int,
        rate_strict = coalesce((r.declared ->> 'rate_strict'::text)::bool, true),
        scope = coalesce(r.declared ->> 'scope'::text, 'fleet'),
        on_full = coalesce(r.declared ->> 'on_full'::text, 'wait'),
        breaker_failures = (r.declared ->> 'breaker_failures'::text)::int,
        breaker_seconds = (r.declared ->> 'breaker_seconds'::text)::float8,
        breaker_cooldown = (r.declared ->> 'breaker_cooldown'::text)::float8,
        updated_at = clock_timestamp(), updated_by = null
    where r.name = %(rule)s::text and r.declared is not null
    returning r.name
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from changed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select changed.name from changed, notified
