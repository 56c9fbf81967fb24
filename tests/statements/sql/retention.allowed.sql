select coalesce(pg_catalog.bool_and(pg_catalog.has_function_privilege(f.oid, 'EXECUTE')
                         and (f.prosecdef or pg_catalog.pg_has_role(f.proowner, 'USAGE'))), false)
from pg_catalog.pg_proc f
where f.pronamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid
and f.proname in ('empty_partition'::name, 'drop_partition'::name)
