with few_parked as materialized (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'task' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.task limit 10001), few_paused as materialized (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'pause' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.task limit 10001), few_turn as materialized (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.lane, j.priority desc limit 10001)
select case when (select count(*) from few_parked) > 10000 or (select count(*) from few_paused) > 10000 or (select count(*) from few_turn) > 10000 then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
