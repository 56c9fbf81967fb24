with t as materialized (
    select w.root_id, pg_catalog.sum(g.members) as members, pg_catalog.array_agg(g.id) as gates
    from "pgqueue".dependency d cross join lateral (
        select w.root_id, w.state, w.value_of from "pgqueue".workflow w where w.id = d.parent_id limit 1) as w
    cross join lateral (select g.id, g.members from "pgqueue".gate g where g.workflow_id = any(array[d.parent_id])) as g
    where d.child_id = any(array[%(job)s::bigint]) and d.argument = %(argument)s::text
    and w.state = 'succeeded' and w.value_of is null group by w.root_id
)
select t.members::bigint - (
        select count(*) from "pgqueue".workflow n
        where n.root_id = t.root_id and n.root_id <> n.id and n.gate_id = any(t.gates)) from t
