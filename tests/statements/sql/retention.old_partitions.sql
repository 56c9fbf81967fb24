select o.history, o.partition, o.heap_bytes, o.bytes, greatest(c.reltuples::bigint, 0::bigint),
       coalesce(p.at < now() - interval '1 day', true)
from "pgqueue".old_partition o
join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, o.partition))::oid
left join "pgqueue".pruned p on p.relation = o.partition and p.age = interval '0'
order by o.first, o.history, o.partition
