with recursive lane(priority) as (
    (select j.priority from "pgqueue".job_live j where j.state = 'pending' and j.queue = %(queue)s
     order by j.priority desc limit 1)
    union all
    select (select j.priority from "pgqueue".job_live j
            where j.state = 'pending' and j.queue = %(queue)s and j.priority < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select count(*) from (
    select from lane cross join lateral (
        select from "pgqueue".job_live j
        where j.state = 'pending' and j.queue = %(queue)s and j.priority = lane.priority
        order by j.run_at, j.id limit %(limit)s + 1) as waiting
    limit %(limit)s + 1) as counted
