with recursive given as materialized (
    select distinct g.id from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
), known as materialized (
    select g.id from given g cross join lateral (
        select j.id from "pgqueue".job_live j where j.id = g.id and j.workflow_id = %(root)s::bigint
        union all
        select f.id from "pgqueue".job_finished f where f.id = g.id and f.workflow_id = %(root)s::bigint
        union all
        select d.id from "pgqueue".dead_letter d where d.id = g.id and d.workflow_id = %(root)s::bigint
        union all
        select w.id from "pgqueue".workflow w where w.id = g.id and w.root_id = %(root)s::bigint) as k
), before(id) as (
    select id from known
    union
    select e.id from before b cross join lateral (
        select d.parent_id as id from "pgqueue".dependency d where d.child_id = b.id
        union all
        select w.id from "pgqueue".gate g join "pgqueue".workflow w on w.gate_id = g.id
        where g.workflow_id = b.id and w.root_id = %(root)s::bigint and w.state = 'running'
        union all
        select j.id from "pgqueue".gate g join "pgqueue".job_live j on j.gate_id = g.id
        where g.workflow_id = b.id and j.workflow_id = %(root)s::bigint and j.waits_for = 'jobs') as e
)
select array(select id from given except select id from known),
       exists (select from before where id = any((select %(around)s::bigint[])::bigint[]))
