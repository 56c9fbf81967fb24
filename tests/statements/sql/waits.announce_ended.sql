with ended as materialized (
    select w.job_id from "pgqueue".waiter w
    where w.job_id = any((select %(ids)s::bigint[])::bigint[])
    and (select true from "pgqueue".job_live l where l.id = w.job_id limit 1) is null
    order by w.job_id for update
), forgotten as (
    delete from "pgqueue".waiter w using ended where w.job_id = any(array[ended.job_id])
), parts as (
    select pg_catalog.string_agg(n.job_id::text, ' ') as ids
    from (select job_id, (row_number() over (order by job_id) - 1) / 300 as part from ended) as n group by n.part
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.ended', parts.ids)) from parts
    where pg_notification_queue_usage() < 0.5::float8
)
select * from notified
