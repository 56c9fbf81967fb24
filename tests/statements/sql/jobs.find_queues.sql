(with recursive ready(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.state = 'pending' and j.queue::text > %(after)s::text
     order by j.queue, j.priority desc limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.state = 'pending' and j.queue::text > ready.queue
            order by j.queue, j.priority desc limit 1)
    from ready where ready.queue is not null
), turning(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text > %(after)s::text
     order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text > turning.queue
            order by j.queue limit 1)
    from turning where turning.queue is not null
)
select named.queue, false from (
    (select ready.queue from ready where ready.queue is not null limit %(most)s::int)
    union
    (select turning.queue from turning where turning.queue is not null limit %(most)s::int)
) as named order by named.queue limit %(most)s::int)
union all
(select distinct parked.queue, true
 from pg_catalog.unnest((select %(tasks)s::text[])) as known(task) cross join lateral (
    with recursive hop(label, queue) as (
        (select coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
         order by coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1)
        union all
        select further.label, further.queue from hop cross join lateral (
            select coalesce(j.headers::jsonb ->> '$version'::text, '1') as label, j.queue::text from "pgqueue".job_live j
            where j.state = 'blocked' and j.waits_for = 'task' and j.task::text = known.task
            and (coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue::text) > (hop.label, hop.queue)
            order by coalesce(j.headers::jsonb ->> '$version'::text, '1'), j.queue limit 1) as further
    )
    select hop.queue from hop limit %(most)s::int
 ) as parked limit %(most)s::int)
