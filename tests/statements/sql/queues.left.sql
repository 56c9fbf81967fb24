with recursive lane(priority) as (
    (select j.priority::smallint from "pgqueue".job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from "pgqueue".job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select (select count(*) from (
            select from lane cross join lateral (
                select from "pgqueue".job_live j
                where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
                and j.run_at::timestamptz <= now()
                order by j.run_at, j.id limit %(most)s::int) as waiting
            limit %(most)s::int) as counted),
       (select count(*) from "pgqueue".job_live j where j.worker_id is not null and j.queue::text = %(queue)s::text)
