with recursive step(priority) as (
    (select j.priority::smallint from "pgqueue".job_live j
     where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
     and j.priority::smallint >= %(priority)s::int::smallint
     order by j.lane, j.priority desc limit 1)
    union all
    select (select j.priority::smallint from "pgqueue".job_live j
            where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
            and j.priority::smallint < step.priority and j.priority::smallint >= %(priority)s::int::smallint
            order by j.lane, j.priority desc limit 1)
    from step where step.priority is not null
)
select (select count(*) from (
            select from step cross join lateral (
                select case when step.priority > %(priority)s::int::smallint then now()
                            when %(lane)s::bigint < 0::bigint then '-infinity'::timestamptz
                            else %(run_at)s::timestamptz end as at
            ) as place cross join lateral (
                (select from "pgqueue".job_live j
                 where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
                 and j.priority::smallint = step.priority and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) < place.at
                 order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit %(most)s::int + 1)
                union all
                (select from "pgqueue".job_live j
                 where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
                 and j.priority::smallint = step.priority and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) = place.at and j.id < %(id)s::bigint
                 order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit %(most)s::int + 1)
            ) as first
            limit %(most)s::int + 1) as counted),
       head.id, head.attempt, extract(epoch from head.run_at - now())::float8
from (select 1) as one left join lateral (
    select j.id, j.attempt, j.run_at::timestamptz as run_at from "pgqueue".job_live j
    where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane = %(lane)s::bigint
    order by j.lane, j.priority desc, (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit 1
) as head on true
