with gone as (
    delete from "pgqueue".named_lock l where l.key::text = %(key)s::text
    and (%(token)s::bigint is null or l.token = %(token)s::bigint)
    returning l.key, l.holder, l.job_id, l.token, l.acquired_at, l.expires_at, l.waited_until
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.locks', gone.key)) from gone
    where gone.waited_until > clock_timestamp() and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select gone.key, gone.holder, gone.job_id, gone.token, gone.acquired_at, gone.expires_at,
    gone.waited_until > clock_timestamp()
from gone, notified where gone.expires_at > clock_timestamp()
