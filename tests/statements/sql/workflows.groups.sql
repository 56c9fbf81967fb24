select w.id, w.name, g.workflow_id, w.on_failure
from (select w.id, w.name, w.gate_id, w.on_failure from "pgqueue".workflow w where w.id = %(id)s::bigint
      union all
      select w.id, w.name, w.gate_id, w.on_failure from "pgqueue".workflow w
      where w.root_id = %(id)s::bigint and w.root_id <> w.id) as w
left join lateral (select g.workflow_id from "pgqueue".gate g where g.id = w.gate_id limit 1) as g on true
order by w.id limit %(limit)s::int
