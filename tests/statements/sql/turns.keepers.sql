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
), bucket as (
    select greatest(coalesce(k.max_running, r.max_running) - u.running, 0) as room
    from (
            select t.*, greatest(least(t.taken - f.freed, 2147483647), 0)::int as running, f.closed_until, f.opened
            from (select t.* from "pgqueue".limit_use t where t.name = %(bucket)s::text order by t.version desc limit 1) as t
            cross join lateral (
                select f.* from "pgqueue".limit_freed f where f.name = t.name order by f.version desc limit 1) as f) as u
        left join lateral (
            select r.*, case when r.rate_count is not null then coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end) end as burst,
                   case when r.rate_count is not null then (pg_catalog.ceil(1000000::float8 * r.rate_seconds / (r.rate_count - case when r.rate_strict then coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end) - 1 else 0 end
        )::float8) / 1000000::float8) end as step
            from "pgqueue".limit_rule r where r.name = u.rule limit 1) as r on true
        left join lateral (
            select * from "pgqueue".limit_key k
            where k.rule = u.rule and k.key = pg_catalog.substr(u.name, pg_catalog.char_length(u.rule) + 2) limit 1
        ) as k on true
    where exists (select from kept) and coalesce(k.max_running, r.max_running) is not null
)
select k.job_id from kept k order by k.job_id
limit greatest((select jobs from waiting) - (select jobs from asked) - (select room from bucket), 0::bigint)
