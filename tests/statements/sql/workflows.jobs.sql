with span as materialized (
    select distinct g.first_id, g.last_id, w.created_at
    from "pgqueue".workflow w join "pgqueue".gate g on g.workflow_id = w.id
    where w.id = %(id)s::bigint or w.root_id = %(id)s::bigint and w.root_id <> w.id
), node as (
    select j.id, j.task::text, j.state, j.waits_for, j.waits_on, null::text as reason, j.gate_id
    from "pgqueue".job_live j where j.workflow_id = %(id)s::bigint
    union all
    select d.id, d.task::text, 'failed', null, null, d.reason, d.gate_id
    from "pgqueue".dead_letter d where d.workflow_id = %(id)s::bigint
    union all
    select f.* from span cross join lateral (
        select f.id, f.task::text, f.state, null, null::int, f.reason, f.gate_id from "pgqueue".job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.finished_at >= span.created_at - interval '1 day') as f
)
select n.id, n.task, n.state, n.waits_for, n.waits_on, n.reason, g.workflow_id
from node n left join lateral (select g.workflow_id from "pgqueue".gate g where g.id = n.gate_id limit 1) as g on true
order by n.id limit %(limit)s::int
