with recursive waiting as not materialized (
    select queue::text, priority::smallint, run_at::timestamptz, id, attempt from "pgqueue".job_live where state = 'pending'
), lane(queue, priority) as (
    (select j.queue, j.priority from waiting j order by j.queue, j.priority desc limit 1)
    union all
    select rest.queue, rest.priority from lane cross join lateral (
        (select j.queue, j.priority from waiting j where j.queue = lane.queue and j.priority < lane.priority
         order by j.queue, j.priority desc limit 1)
        union all
        (select j.queue, j.priority from waiting j where j.queue > lane.queue
         order by j.queue, j.priority desc limit 1)
        order by queue limit 1) as rest
), few_scheduled as materialized (
    select later.id from lane cross join lateral (
        select j.id from waiting j where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
        order by j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or lane.queue = %(queue)s::text limit 10001), few_turn as materialized (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.lane, j.priority desc limit 10001)
select case when (select count(*) from few_scheduled) > 10000 or (select count(*) from few_turn) > 10000 then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
