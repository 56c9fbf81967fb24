select current_user::text, r.rolsuper,
       exists (select from pg_catalog.pg_class c
               where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid and c.relkind in ('r', 'p')
               and pg_catalog.pg_has_role(c.relowner, 'USAGE')),
       pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
from pg_catalog.pg_roles r where r.rolname = current_user
