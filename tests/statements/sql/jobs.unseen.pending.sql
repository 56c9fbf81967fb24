with few(kind, id) as materialized (select 0, id from (
    select j.id from "pgqueue".job_live j where j.state = 'pending' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.priority desc, j.run_at, j.id limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000)
select case when exists (select from many) then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
