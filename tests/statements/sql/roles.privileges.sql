select coalesce(r.rolname::text, ''), l.kind, l.object, l.column, pg_catalog.lower(a.privilege_type)
from (
    select 'schema' as kind, '' as object, '' as column, n.nspowner as owner,
           coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner)) as list
    from pg_catalog.pg_namespace n where n.nspname = 'pgqueue'
    union all
    select case c.relkind when 'S' then 'sequence' else 'table' end, c.relname::text, '', c.relowner, c.relacl
    from pg_catalog.pg_class c where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid
    and c.relacl is not null and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
    union all
    select 'table', c.relname::text, a.attname::text, c.relowner, a.attacl
    from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid and a.attacl is not null and not a.attisdropped
    union all
    select 'function', p.proname::text, '', p.proowner, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
    from pg_catalog.pg_proc p where p.pronamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid
    union all
    select 'type', t.typname::text, '', t.typowner, coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))
    from pg_catalog.pg_type t where t.typnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid and t.typtype = 'd') as l
cross join lateral pg_catalog.aclexplode(l.list) as a
left join pg_catalog.pg_roles r on r.oid = a.grantee
where a.grantee <> l.owner and (a.grantee = 0::oid or r.rolname = any(%(names)s::text[]))
