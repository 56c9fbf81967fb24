with paused as (
    insert into "pgqueue".limit_key as c (rule, key, paused_at, paused_until, paused_by, paused_why, updated_at, updated_by)
    select r.name, %(key)s::text, clock_timestamp(), e.until, %(by)s::text, %(why)s::text, clock_timestamp(),
           %(by)s::text
    from "pgqueue".limit_rule r, (select coalesce(%(until)s::timestamptz,
                            clock_timestamp() + pg_catalog.make_interval(secs => %(seconds)s::float8)) as until) as e
    where (e.until is null or e.until > clock_timestamp()) and r.name = %(limit)s::text
    on conflict (rule, key) do update set
        paused_at = case when c.paused_at is not null and (c.paused_until is null or c.paused_until > now()) then c.paused_at else excluded.paused_at end,
        paused_until = excluded.paused_until, paused_by = excluded.paused_by, paused_why = excluded.paused_why,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by
    returning c.key
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause')) from paused where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select paused.key from paused, notified
