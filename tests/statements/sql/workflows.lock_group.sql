with recursive held as materialized (
    select w.id, w.root_id, w.state, w.sealed, w.on_failure, w.gate_id, w.replaces from "pgqueue".workflow w
    where w.id = %(id)s::bigint for no key update
), around(id, on_failure, gate_id, replaces) as (
    select id, on_failure, gate_id, replaces from held
    union all
    select o.id, o.on_failure, o.gate_id, o.replaces from around a cross join lateral (
        select w.id, w.on_failure, w.gate_id, w.replaces from "pgqueue".gate g join "pgqueue".workflow w on w.id = g.workflow_id
        where g.id = coalesce(a.gate_id, (select j.gate_id from "pgqueue".job_live j where j.id = a.replaces))
    ) as o
)
select h.id, h.root_id, h.state, h.sealed, case when (select pg_catalog.bool_or(a.on_failure = 'hold') from around a) then 16
       when h.on_failure = 'stop' then 32 else 0 end, (select pg_catalog.array_agg(a.id) from around a)
from held h
