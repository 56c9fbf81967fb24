select r.pid, r.usename::text, r.application_name::text, coalesce(pg_catalog.host(r.client_addr), 'a local socket'),
       pg_catalog.age(r.backend_xmin)
from pg_catalog.pg_stat_replication r
where pg_catalog.age(r.backend_xmin) > %(xids)s::int
order by pg_catalog.age(r.backend_xmin) desc limit 20
