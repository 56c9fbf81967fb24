with gone as (
    delete from "pgqueue".named_lock l where l.key::text = %(key)s::text and l.owner::uuid = %(owner)s::uuid
    returning l.key, l.waited_until
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.locks', gone.key)) from gone
    where gone.waited_until > clock_timestamp() and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select exists (select from gone) from notified
