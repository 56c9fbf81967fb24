with wanted as materialized (
    select j.id, j.workflow_id, w.created_at - interval '1 day' as since
    from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
    cross join lateral (
        select j.id, j.workflow_id from "pgqueue".job_live j
        where j.id = g.id and j.state = 'running' and j.lease = g.lease limit 1) as j
    left join lateral (select w.created_at from "pgqueue".workflow w where w.id = j.workflow_id limit 1) as w on true
), edge as materialized (
    select e.*, w.since, p.state as group_state, p.root_id, p.value_of,
           case when e.child_id::text || ' '::text || e.argument = any((select %(later)s::text[])::text[])
                     and e.position is null and p.id is not null
                then (select true from "pgqueue".dependency o where o.child_id = any(array[e.child_id])
                      and o.argument = e.argument and o.ord <> e.ord limit 1) is null else false end as is_later
    from wanted w cross join lateral (
        select d.child_id, d.parent_id, d.ord, d.runs_after, d.argument, d.position from "pgqueue".dependency d
        where d.child_id = any(array[w.id]) and d.argument is not null) as e
    left join lateral (
        select w.id, w.root_id, w.state, w.value_of from "pgqueue".workflow w where w.id = e.parent_id limit 1) as p on true
), groups as materialized (
    select e.child_id, e.ord, e.since, g.first_id, g.last_id, pg_catalog.array_agg(g.id) as gates
    from edge e cross join lateral (
        select g.id, g.first_id, g.last_id from "pgqueue".gate g where g.workflow_id = any(array[e.parent_id])) as g
    where e.group_state is not null and e.value_of is null and not e.is_later
    group by e.child_id, e.ord, e.since, g.first_id, g.last_id
), source as materialized (
    select e.child_id, e.ord, p.*, p.id as place from edge e cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb as error from "pgqueue".job_finished f
        where f.id = e.parent_id and f.finished_at >= e.since
        union all
        select d.id, d.task::text, 'failed', null, d.error from "pgqueue".dead_letter d where d.id = e.parent_id) as p
    where e.group_state is null
    union all
    select e.child_id, e.ord, p.*, v.place from edge e
    cross join lateral pg_catalog.unnest(e.value_of) with ordinality as v(id, place) cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb from "pgqueue".job_finished f
        where f.id = v.id and f.finished_at >= e.since) as p where not e.is_later
    union all
    select g.child_id, g.ord, m.*, m.id from groups g cross join lateral (
        select f.id, f.task::text, f.state, f.result, null::jsonb from "pgqueue".job_finished f
        where f.id >= g.first_id and f.id <= g.last_id and f.gate_id = any(g.gates) and f.finished_at >= g.since
        union all
        select d.id, d.task::text, 'failed', null, d.error from "pgqueue".dead_letter d
        where d.id >= g.first_id and d.id <= g.last_id and d.gate_id = any(g.gates)) as m
), found as (
    select s.child_id, s.ord, count(*) as jobs from source s group by s.child_id, s.ord
), whole as (
    select e.child_id, e.ord, e.root_id, pg_catalog.sum(g.members) as members, pg_catalog.array_agg(g.id) as gates
    from edge e cross join lateral (
        select g.id, g.members from "pgqueue".gate g where g.workflow_id = any(array[e.parent_id])) as g
    where e.group_state = 'succeeded' and e.value_of is null and not e.is_later
    group by e.child_id, e.ord, e.root_id
), short as materialized (
    select t.child_id, t.ord, t.members - coalesce(f.jobs, 0::bigint) - (
        select count(*) from "pgqueue".workflow n
        where n.root_id = t.root_id and n.root_id <> n.id and n.gate_id = any(t.gates)) as gone
    from whole t left join found f on f.child_id = t.child_id and f.ord = t.ord
    where t.members > coalesce(f.jobs, 0::bigint)
)
select w.id, e.argument, e.ord, e.position, e.runs_after,
       e.group_state is not null,
       s.task, s.state, s.result::text, s.error::text, h.gone, e.is_later, e.group_state
from wanted w left join edge e on e.child_id = w.id
left join short h on h.child_id = e.child_id and h.ord = e.ord
left join source s on s.child_id = e.child_id and s.ord = e.ord
order by w.id, e.argument, e.position nulls first, e.ord, s.place
