select pg_catalog.count("pgqueue".compensate(g.id, g.lease, true))
from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
where not exists (select from "pgqueue".job_live j where j.id = g.id)
