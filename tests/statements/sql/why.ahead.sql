with recursive lane(priority) as (
    (select j.priority::smallint from "pgqueue".job_live j
     where j.state = 'pending' and j.queue::text = %(queue)s::text
     and j.priority::smallint >= %(priority)s::int::smallint
     order by j.priority desc limit 1)
    union all
    select (select j.priority::smallint from "pgqueue".job_live j
            where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint < lane.priority
            and j.priority::smallint >= %(priority)s::int::smallint
            order by j.priority desc limit 1)
    from lane where lane.priority is not null
)
select count(*) from (
    select from lane cross join lateral (
        select case when lane.priority > %(priority)s::int::smallint then now() else %(run_at)s::timestamptz end as at
    ) as place cross join lateral (
        (select from "pgqueue".job_live j
         where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
         and j.run_at::timestamptz < place.at
         order by j.run_at, j.id limit %(most)s::int + 1)
        union all
        (select from "pgqueue".job_live j
         where j.state = 'pending' and j.queue::text = %(queue)s::text and j.priority::smallint = lane.priority
         and j.run_at::timestamptz = place.at and j.id < %(id)s::bigint
         order by j.run_at, j.id limit %(most)s::int + 1)
    ) as first
    limit %(most)s::int + 1) as counted
