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
), few(kind, id) as materialized (select 0, id from (
    select later.id from lane cross join lateral (
        select j.id from waiting j where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
        order by j.run_at, j.id limit 10001) as later
    where %(queue)s::text is null or lane.queue = %(queue)s::text limit 10001) as k
    union all select 1, id from (
    select j.id from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and (%(queue)s::text is null or j.queue::text = %(queue)s::text)
    order by j.queue, j.lane, j.priority desc limit 10001) as k), many(kind) as materialized (
    select kind from few group by kind having count(*) > 10000)
select case when exists (select from many) then (
    select w.id + 1 from "pgqueue".job_live w
    where %(before)s::bigint is null or w.id < %(before)s
    order by w.id desc offset %(looked)s::int limit 1) end
