with looked as materialized (
    select w.id, w.root_id, w.name, w.created_at, w.state, w.sealed from "pgqueue".workflow w
    where not w.settled and w.created_at > %(after)s::timestamptz and w.created_at < now() - interval '1 hour'
    and true
    order by w.created_at limit %(at_most)s::int
), hollow as materialized (
    select l.id, l.name, l.created_at from looked l
    where l.id = l.root_id and l.state = 'running' and l.sealed
    and (select true from "pgqueue".job_live j where j.workflow_id = l.id and j.gate_id is not null limit 1) is null
    and (select true from "pgqueue".dead_letter d where d.workflow_id = l.id and d.ties::int & 16 > 0 limit 1) is null
    and (select true from "pgqueue".workflow w
         where w.root_id = l.id and w.root_id <> w.id and w.state <> 'running' and not w.settled limit 1) is null
) select h.id, h.name, h.created_at from hollow h order by h.created_at
