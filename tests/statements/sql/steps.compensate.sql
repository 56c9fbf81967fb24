select pg_catalog.count("pgqueue".compensate(g.id, g.lease, true))
from unnest((select %(ids)s::bigint[]), (select %(leases)s::bigint[])) as g(id, lease)
where (select j.id from "pgqueue".job_live j where j.id = g.id limit 1) is null
