with few(kind, id) as materialized (select 0, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'task' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.task limit 10001) as k
    union all select 1, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'pause' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.task limit 10001) as k
    union all select 2, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'jobs' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.id limit 10001) as k
    union all select 3, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.lane, j.priority desc limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000)
select case when exists (select from many) then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
