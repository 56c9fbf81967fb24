select found.name from (
    with recursive lane(queue) as (
        (select j.queue::text from "pgqueue".job_live j where j.state = 'pending' order by j.queue limit 1)
        union all
        select (select j.queue::text from "pgqueue".job_live j where j.state = 'pending' and j.queue::text > lane.queue
                order by j.queue limit 1)
        from lane where lane.queue is not null
    ), turning(queue) as (
    (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' order by j.queue limit 1)
    union all
    select (select j.queue::text from "pgqueue".job_live j where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text > turning.queue
            order by j.queue limit 1)
    from turning where turning.queue is not null
)
    select lanes.queue from (select queue from lane limit 1000) as lanes where lanes.queue is not null
    union select turns.queue from (select queue from turning limit 1000) as turns where turns.queue is not null
    union select name from "pgqueue".queue
    union select pg_catalog.unnest(queues) from "pgqueue".worker where lost_at is null) as found(name)
where pg_catalog.left(found.name, pg_catalog.length(%(start)s::text)) = %(start)s::text
order by found.name limit %(most)s::int
