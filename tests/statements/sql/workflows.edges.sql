with span as materialized (
    select distinct g.first_id, g.last_id
    from "pgqueue".workflow w join "pgqueue".gate g on g.workflow_id = w.id
    where w.id = %(id)s::bigint or w.root_id = %(id)s::bigint and w.root_id <> w.id
)
select e.parent_id, e.child_id, e.runs_after, e.argument, e.position
from span cross join lateral (
    select * from "pgqueue".dependency d
    where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = %(id)s::bigint) as e
order by e.parent_id, e.child_id, e.ord limit %(limit)s::int
