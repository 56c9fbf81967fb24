select s.slot_name::text, s.active_pid, greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin)), s.xmin is null
from pg_catalog.pg_replication_slots s
where greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin)) > %(xids)s::int
order by greatest(pg_catalog.age(s.xmin), pg_catalog.age(s.catalog_xmin)) desc limit 20
