select w.id, w.name, g.workflow_id, w.on_failure, w.replaces
from (select w.id, w.name, w.gate_id, w.on_failure, w.replaces, w.created_at from "pgqueue".workflow w
      where w.id = %(id)s::bigint
      union all
      select w.id, w.name, w.gate_id, w.on_failure, w.replaces, o.created_at
      from "pgqueue".workflow o cross join lateral (
          select w.* from "pgqueue".workflow w where w.root_id = o.id and w.root_id <> w.id) as w
      where o.id = %(id)s::bigint) as w
left join lateral (
    select j.gate_id from "pgqueue".job_live j where j.id = w.replaces
    union all
    select d.gate_id from "pgqueue".dead_letter d where d.id = w.replaces
    union all
    select f.gate_id from "pgqueue".job_finished f
    where f.id = w.replaces and f.finished_at >= w.created_at - interval '1 day'
    limit 1) as r on true
left join lateral (
    select g.workflow_id from "pgqueue".gate g where g.id = coalesce(w.gate_id, r.gate_id) limit 1) as g on true
order by w.id limit %(limit)s::int
