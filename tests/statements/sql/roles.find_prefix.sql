select pg_catalog.left(o.rolname::text, -6)
from pg_catalog.pg_namespace n
join pg_catalog.pg_roles o on o.oid = n.nspowner and pg_catalog.pg_has_role(o.oid, 'USAGE')
    and pg_catalog.right(o.rolname::text, 6) = '_owner'
join pg_catalog.pg_proc p on p.pronamespace = n.oid and p.proname = 'maintain'
cross join lateral pg_catalog.aclexplode(p.proacl) as a
join pg_catalog.pg_roles w on w.oid = a.grantee and w.rolname = pg_catalog.left(o.rolname::text, -6) || '_worker'
where n.nspname = 'pgqueue' limit 1
