with recursive turn(queue, lane, priority) as (
    (select j.queue::text, j.lane, j.priority::smallint from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn'
     order by j.queue, j.lane, j.priority desc limit 1)
    union all
    select following.queue, following.lane, following.priority from turn cross join lateral (
        (select j.queue::text as queue, j.lane as lane, j.priority::smallint as priority from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = turn.queue and j.lane = turn.lane and j.priority::smallint < turn.priority
         order by j.queue, j.lane, j.priority desc limit 1)
        union all
        (select j.queue::text, j.lane, j.priority::smallint from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = turn.queue and j.lane > turn.lane
         order by j.queue, j.lane, j.priority desc limit 1)
        union all
        (select j.queue::text, j.lane, j.priority::smallint from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text > turn.queue order by j.queue, j.lane, j.priority desc limit 1)
        order by queue, lane limit 1) as following
), counted as (
    select t.queue, t.lane < 0::bigint and looked.jobs > %(most)s::bigint as unknown,
           looked.fresh as jobs
    from (select * from turn limit %(most_lanes)s::int + 1) as t cross join lateral (
        select count(*) as jobs, count(*) filter (
            where w.run_at > now() - interval '1 minute' and w.run_at <= now()) as fresh
        from (
            select j.run_at::timestamptz as run_at from "pgqueue".job_live j
            where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = t.queue and j.lane = t.lane and j.priority::smallint = t.priority
            and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) >= case when t.lane < 0::bigint then '-infinity'::timestamptz
                                  else now() - interval '1 minute' end
            and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now()
            order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit %(most)s::int + 1) as w
    ) as looked
)
select queue, case when not pg_catalog.bool_or(unknown) and pg_catalog.sum(jobs) <= %(most)s::numeric
                        and (select count(*) from counted) <= %(most_lanes)s::bigint then pg_catalog.sum(jobs)::bigint end
from counted group by queue
