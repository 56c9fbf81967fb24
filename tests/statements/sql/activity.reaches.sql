select (
    select extract(epoch from now() - counted.at)::float8 + 10.0::float8
    from (
        select newest.at, pg_catalog.sum(newest.jobs) over (order by newest.at desc, newest.jobs) as ended
        from (
            select a.at, case when a.outcome = any(pg_catalog.string_to_array(g.outcomes, ' '))
                              and a.queue like g.queues escape '!' and a.task like g.tasks escape '!'
                              then a.jobs::bigint else 0::bigint end as jobs
            from "pgqueue".activity a
            where a.at > now() - pg_catalog.make_interval(secs => g.seconds) order by a.at desc limit %(look)s::int
        ) as newest
    ) as counted
    where counted.ended >= g.most::numeric order by counted.at desc limit 1)
from unnest(%(outcomes)s::text[], %(queues)s::text[], %(tasks)s::text[], %(seconds)s::float8[], %(mosts)s::bigint[])
     with ordinality as g(outcomes, queues, tasks, seconds, most, ord)
order by g.ord
