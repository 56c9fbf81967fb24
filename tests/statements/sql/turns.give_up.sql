with looked as materialized (
    select h.job_id, h.bucket, h.lease, j.id is not null as waits,
           j.home <> j.lane or j.lane < 0 as apart, (j.buckets ? h.bucket) is true as takes,
           (select r.while_waiting and r.breaker_failures is null from "pgqueue".limit_rule r
            where r.name = pg_catalog.split_part(h.bucket, '/', 1) limit 1) is true as asked
    from (select * from "pgqueue".limit_hold h
          where (h.job_id, h.bucket) > (%(job)s::bigint, %(bucket)s::text)
          order by h.job_id, h.bucket limit %(at_most)s::int) as h
    left join lateral (
        select j.id, j.lane, (j.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as home, j.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets
        from "pgqueue".job_live j where j.id = h.job_id and j.lease = h.lease and j.state = 'blocked' limit 1) as j on true
), leftover as (
    delete from "pgqueue".limit_hold h using looked l
    where h.job_id = any(array[l.job_id]) and h.bucket = l.bucket and h.lease = l.lease and not l.waits
), locked as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select job_id from looked where waits and (apart and takes and asked) is not true))
    order by j.id for update skip locked
), moved as (
    update "pgqueue".job_live j set lane = (j.headers::jsonb #>> '{$flow,lane}'::text[])::bigint
    where j.id = any(array(select id from locked)) and j.state = 'blocked' and j.lane is not null
    returning j.id, j.lease
)
select (select count(*) from looked), last.job_id, last.bucket,
       coalesce((select "pgqueue".give_back(pg_catalog.array_agg(m.id), pg_catalog.array_agg(m.lease)) from moved m having count(*) > 0), 0::bigint)
from (select 1) as one left join lateral (
    select l.job_id, l.bucket from looked l order by l.job_id desc, l.bucket desc limit 1) as last on true
