with waiting as (
    select count(*) as jobs from (
        select from "pgqueue".job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
        and j.priority::smallint = %(priority)s::smallint and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now() and j.run_at::timestamptz <= now()
        limit 100) as w
), holders as materialized (
    select j.id, j.claimed_at, j.cancel_requested_at is not null as asked from "pgqueue".job_live j
    where j.worker_id is not null and j.lane is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> pg_catalog.jsonb_build_array(%(bucket)s::text)
), chosen as materialized (
    select j.id from (
        select h.id from holders h where not h.asked order by h.claimed_at, h.id
        limit greatest((select jobs from waiting) - (select count(*) from holders where asked), 0::bigint)) as h
    cross join lateral (
        select j.id from "pgqueue".job_live j where j.id = h.id and j.state = 'running' limit 1 for update skip locked) as j
), requested as (
    update "pgqueue".job_live j set cancel_requested_at = now()
    where j.id = any(array(select id from chosen)) and j.state = 'running' and j.cancel_requested_at is null
    returning j.id, j.task::text, j.queue::text
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!cancel')) from requested where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select requested.id, task, queue from requested, workers_notified
