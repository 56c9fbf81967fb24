(with recursive ready(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.state = 'pending' and j.queue::text > %(after)s::text
     order by j.queue, j.priority desc limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.state = 'pending' and j.queue::text > ready.queue
            order by j.queue, j.priority desc limit 1)
    from ready where ready.queue is not null
)
select ready.queue, false from ready where ready.queue is not null limit %(most)s::int)
union all
(select distinct parked.queue, true
 from unnest(%(tasks)s::text[], %(versions)s::text[]) as known(task, version) cross join lateral (
    with recursive hop(queue) as (
        (select j.queue::text from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
         and coalesce(j.headers::jsonb ->> '$version'::text, '1') = known.version
         order by j.queue limit 1)
        union all
        select (select j.queue::text from "pgqueue".job_live j
                where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
                and coalesce(j.headers::jsonb ->> '$version'::text, '1') = known.version
                and j.queue::text > hop.queue order by j.queue limit 1)
        from hop where hop.queue is not null
    )
    select hop.queue from hop where hop.queue is not null limit %(most)s::int
 ) as parked limit %(most)s::int)
