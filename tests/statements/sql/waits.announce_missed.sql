with stale as (
    delete from "pgqueue".waiter where job_id = any(array(
        select w.job_id from "pgqueue".waiter w where w.expires_at < now() limit 1000 for update skip locked))
), ended as materialized (
    select w.job_id from "pgqueue".waiter w
    where w.expires_at >= now() and (select true from "pgqueue".job_live l where l.id = w.job_id limit 1) is null
    limit 3000
), parts as (
    select pg_catalog.string_agg(n.job_id::text, ' ') as ids
    from (select job_id, (row_number() over (order by job_id) - 1) / 300 as part from ended) as n group by n.part
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.ended', parts.ids)) from parts
    where pg_notification_queue_usage() < 0.5::float8
)
select exists (select from "pgqueue".waiter w where w.expires_at >= now()) from notified
