with recursive lane(priority) as (
    (select j.priority::smallint from "pgqueue".job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from "pgqueue".job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
), turn(lane, priority) as (
    (select j.lane, j.priority::smallint from "pgqueue".job_live j
     where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text order by j.lane, j.priority desc limit 1)
    union all
    select following.lane, following.priority from turn cross join lateral (
        (select j.lane, j.priority::smallint as priority from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = turn.lane
         and j.priority::smallint < turn.priority order by j.lane, j.priority desc limit 1)
        union all
        (select j.lane, j.priority::smallint from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane > turn.lane
         order by j.lane, j.priority desc limit 1)
        order by lane limit 1) as following
)
select (select count(*) from (
            (select from lane cross join lateral (
                select from "pgqueue".job_live j
                where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
                and j.run_at::timestamptz <= now()
                order by j.run_at, j.id limit %(most)s::int) as waiting
             limit %(most)s::int)
            union all
            (select from turn cross join lateral (
                select from "pgqueue".job_live j
                where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = turn.lane
                and j.priority::smallint = turn.priority and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now() and j.run_at::timestamptz <= now()
                order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit %(most)s::int) as waiting
             limit %(most)s::int)
            limit %(most)s::int) as counted),
       (select count(*) from "pgqueue".job_live j where j.worker_id is not null and j.queue::text = %(queue)s::text)
