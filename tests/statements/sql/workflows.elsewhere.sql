with span as materialized (
    select distinct g.first_id, g.last_id, w.created_at
    from "pgqueue".workflow w join "pgqueue".gate g on g.workflow_id = w.id
    where w.id = %(id)s::bigint or w.root_id = %(id)s::bigint and w.root_id <> w.id
)
select exists (
    select from "pgqueue".dead_letter d
    where d.workflow_id = %(id)s::bigint and d.queue::text <> all((select %(queues)s::text[])::text[])
) or exists (
    select from span cross join lateral (
        select from "pgqueue".job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.state = 'cancelled' and f.queue::text <> all((select %(queues)s::text[])::text[])
        and f.finished_at >= span.created_at - interval '1 day' limit 1) as f
)
