with recursive resting(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 and j.queue::text > resting.queue
            order by j.queue limit 1)
    from resting where resting.queue is not null
), few(kind, id) as materialized (select 0, id from (
    select later.id from resting cross join lateral (
        select j.id from "pgqueue".job_live j where j.attempt = 0 and j.lease > 0 and j.run_at::timestamptz > now()
    and (j.state = 'pending' or j.state = 'blocked' and j.waits_for = 'turn') and j.queue::text = resting.queue
        order by j.queue, j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or resting.queue = %(queue)s::text limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000)
select case when exists (select from many) then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
