with own as materialized (
    select j.id, j.gate_id from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
    cross join lateral (select id, gate_id from "pgqueue".job_live where id = g.id limit 1 for update skip locked) as j
), edge as materialized (
    select own.id as parent, e.child_id as id from own cross join lateral (
        select d.child_id from "pgqueue".dependency d where d.parent_id = any(array[own.id]) and d.late is not true) as e
), children as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select id from edge)) and (j.waits_for = 'jobs') is true for update skip locked
), held as materialized (
    select j.id from "pgqueue".job_live j
    where j.id = any(array(select id from edge except select id from children)) and (j.waits_for = 'jobs') is true
), gates as materialized (
    select g.id, g.workflow_id from "pgqueue".gate g where g.id = any(array(select gate_id from own)) for update skip locked
), workflows as materialized (
    select w.id from "pgqueue".workflow w
    where w.id = any(array(select workflow_id from gates)) for no key update skip locked
)
select j.id from pg_catalog.unnest((select %(ids)s::bigint[])) as g(id)
cross join lateral (select id, gate_id from "pgqueue".job_live where id = g.id limit 1) as j
where j.id not in (select id from own)
or j.id in (select parent from edge where id in (select id from held))
or j.gate_id not in (select id from gates where workflow_id in (select id from workflows))
