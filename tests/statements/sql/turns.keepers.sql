with kept as materialized (
    select h.job_id from "pgqueue".limit_hold h cross join lateral (
        select from "pgqueue".job_live j
        where j.id = h.job_id and j.lease = h.lease and j.state = 'blocked' limit 1) as j
    where h.bucket = %(bucket)s::text order by h.job_id limit 100
), waiting as (
    select count(*) as jobs from (
        select from "pgqueue".job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
        and j.priority::smallint = %(priority)s::smallint and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now() and j.run_at::timestamptz <= now()
        limit 100) as w
    where exists (select from kept)
), asked as (
    select count(*) as jobs from "pgqueue".job_live j
    where exists (select from kept) and j.worker_id is not null and j.lane is not null
    and j.cancel_requested_at is not null
    and j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> pg_catalog.jsonb_build_array(%(bucket)s::text)
)
select k.job_id from kept k order by k.job_id
limit greatest((select jobs from waiting) - (select jobs from asked), 0::bigint)
