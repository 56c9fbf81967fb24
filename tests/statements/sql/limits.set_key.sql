with changed as (
    insert into "pgqueue".limit_key as k (rule, key, max_running, weight, updated_at, updated_by)
    select r.name, %(key)s::text, %(max_running)s::int, %(weight)s::float8::real, clock_timestamp(), %(by)s::text
    from "pgqueue".limit_rule r where r.name = %(rule)s::text
    on conflict (rule, key) do update set
        max_running = case when %(sets_max)s::bool then excluded.max_running else k.max_running end,
        weight = case when %(sets_weight)s::bool then excluded.weight else k.weight end,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by
    returning k.rule
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from changed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select changed.rule from changed, notified
