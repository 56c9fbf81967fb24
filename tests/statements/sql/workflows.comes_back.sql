with ended as materialized (
    select w.id, w.created_at, w.jobs + within.jobs as jobs, within.ids
    from "pgqueue".workflow w cross join lateral (
        select coalesce(pg_catalog.sum(i.jobs), 0::bigint) as jobs, pg_catalog.array_agg(i.id) as ids from (
            select i.id, i.jobs from "pgqueue".workflow i where i.root_id = w.id and i.root_id <> w.id
            limit %(most)s::int + 1) as i
    ) as within
    where w.id = any((select %(ids)s::bigint[])::bigint[]) and w.root_id = w.id and w.state <> 'running' and w.settled
), small as materialized (
    select e.*, pg_catalog.sum(e.jobs::bigint) over (order by e.jobs, e.id) <= %(most)s::numeric as looked_at from ended e
)
select w.id, w.looked_at from small w cross join lateral (
    select count(*) as jobs, count(*) filter (
               where f.state = 'cancelled' and f.queue <> all((select %(queues)s::text[])::text[])) as elsewhere
    from (select distinct g.first_id, g.last_id from "pgqueue".gate g
          where w.looked_at and g.workflow_id = any(pg_catalog.array_append(w.ids, w.id))) as span
    cross join lateral (
        select f.state, f.queue::text as queue from "pgqueue".job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = w.id
        and f.finished_at >= w.created_at - interval '1 day') as f
) as finished cross join lateral (
    select count(*) as jobs, count(*) filter (
               where d.queue::text <> all((select %(queues)s::text[])::text[])) as elsewhere
    from "pgqueue".dead_letter d where w.looked_at and d.workflow_id = w.id
) as dead
where not w.looked_at or w.jobs = finished.jobs + dead.jobs
and (%(queues)s::text[] is null or finished.elsewhere + dead.elsewhere = 0)
