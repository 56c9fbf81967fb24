select a.pid, a.usename::text, a.application_name::text, a.state, a.xact_start,
       greatest(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid))
from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type <> 'autovacuum worker'
and (a.backend_xmin is not null or a.backend_xid is not null)
and a.xact_start < clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s::float8)
order by a.xact_start limit 20
