with keep as (
    select case when pg_catalog.bool_and(r.value is not null) then pg_catalog.max(r.value) end as age
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled')
), old as materialized (
    select w.id from "pgqueue".workflow w
    where w.settled and w.root_id = w.id and w.ended_at < now() - (select age from keep)
    and (select true from "pgqueue".job_live j where j.workflow_id = w.id limit 1) is null
    and (select true from "pgqueue".dead_letter d where d.workflow_id = w.id limit 1) is null
    order by w.ended_at limit %(at_most)s::int for update skip locked
), whole as materialized (
    select o.id, o.id as root_id from old o
    union all
    select w.id, w.root_id from "pgqueue".workflow w
    where w.root_id = any(array(select id from old)) and w.root_id <> w.id
), gates as (
    delete from "pgqueue".gate g where g.workflow_id = any(array(select id from whole))
    returning g.workflow_id, g.first_id, g.last_id
), span as materialized (
    select distinct w.root_id, g.first_id, g.last_id from gates g join whole w on w.id = g.workflow_id
), edge as materialized (
    select e.* from span cross join lateral (
        select d.parent_id, d.child_id, d.ord from "pgqueue".dependency d
        where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = span.root_id) as e
), edges as (
    delete from "pgqueue".dependency d using edge e
    where d.parent_id = any(array[e.parent_id]) and d.child_id = e.child_id and d.ord = e.ord
), gone as (
    delete from "pgqueue".workflow w where w.id = any(array(select id from whole))
)
select count(*) from old
