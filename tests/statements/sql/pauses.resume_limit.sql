with resumed as (
    update "pgqueue".limit_rule c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = clock_timestamp(), updated_by = %(by)s::text
    where c.name = %(limit)s::text and c.paused_at is not null returning c.name
), closed as materialized (
    select u.name, u.version from "pgqueue".limit_freed u
    where u.rule = %(limit)s::text and (u.closed_until is not null or u.opened > 0) order by u.name collate "C" for update
), opened as (
    update "pgqueue".limit_freed u set closed_until = null, opened = 0, failures = 0, failing_since = null,
        version = u.version + 1
    from closed c where u.name = any(array[c.name]) and u.version >= c.version returning u.rule
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!pause'))
    from (select from resumed union all select from opened limit 1) as changed where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select changed.name from (select name from resumed union select rule from opened) as changed, notified
