with given as (
    select * from pg_catalog.jsonb_populate_record(
        (select r from "pgqueue".limit_rule r where r.name = %(rule)s::text), %(changes)s::jsonb)
), changed as (
    update "pgqueue".limit_rule r set max_running = g.max_running, rate_count = g.rate_count, rate_seconds = g.rate_seconds,
        rate_burst = g.rate_burst, rate_strict = g.rate_strict, scope = g.scope, on_full = g.on_full,
        breaker_failures = g.breaker_failures, breaker_seconds = g.breaker_seconds,
        breaker_cooldown = g.breaker_cooldown, updated_at = clock_timestamp(), updated_by = %(by)s::text
    from given g where r.name = %(rule)s::text
    returning r.name
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from changed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select changed.name from changed, notified
