select coalesce(pg_catalog.bool_and(not pg_catalog.pg_has_role(c.relowner, 'USAGE') and pg_catalog.has_function_privilege(m.oid, 'EXECUTE')), false)
from pg_catalog.pg_class c
join pg_catalog.pg_proc m on m.pronamespace = c.relnamespace and m.proname = 'maintain'::name
where c.oid = pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, 'job_finished'))::oid
