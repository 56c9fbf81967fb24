with few_running as materialized (
    select j.id from "pgqueue".job_live j where j.worker_id is not null and j.state = 'running' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.worker_id limit 10001)
select case when (select count(*) from few_running) > 10000 then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
