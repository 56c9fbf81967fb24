select count(*), pg_catalog.current_setting('max_connections')::int - pg_catalog.current_setting('superuser_reserved_connections')::int
           - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0),
       count(*) filter (where a.usename = current_user),
       (select r.rolconnlimit from pg_catalog.pg_roles r where r.rolname = current_user)
from pg_catalog.pg_stat_activity a where coalesce(a.backend_type, 'client backend') = 'client backend'
and a.usesysid is not null
