with recursive lane(priority) as (
    (select j.priority::smallint from "pgqueue".job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text
     order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from "pgqueue".job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select count(*) from (
    (select from lane cross join lateral (
        select from "pgqueue".job_live j
        where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
        order by j.run_at, j.id limit %(limit)s + 1) as waiting
     limit %(limit)s + 1)
    union all
    (select from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text
     order by j.queue, j.lane, j.priority desc limit %(limit)s + 1)
    union all
    (select from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'pause' and j.queue::text = %(queue)s::text
     order by j.queue, (j.id %% 64::bigint) limit %(limit)s + 1)
    limit %(limit)s + 1) as counted
