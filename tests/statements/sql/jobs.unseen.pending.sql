with few_pending as materialized (
    select j.id from "pgqueue".job_live j where j.state = 'pending' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.priority desc, j.run_at, j.id limit 10001)
select case when (select count(*) from few_pending) > 10000 then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
