with relation as (
    select c.oid, c.relname::text as name, c.reloptions from pg_catalog.pg_class c
    where c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid
    and c.relkind in ('r', 'p', 'v') and not c.relispartition
), part(kind, name, text) as (
    select 'column', pg_catalog.format('%s.%s', r.name, a.attname), pg_catalog.concat_ws(' ',
        pg_catalog.format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
        case when a.attgenerated <> '' then 'generated always as' when d.adbin is not null then 'default' end,
        pg_catalog.pg_get_expr(d.adbin, d.adrelid))
    from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    union all
    select 'index', i.relname::text, pg_catalog.replace(pg_catalog.pg_get_indexdef(x.indexrelid), ' ON ONLY ', ' ON ')
    from relation r join pg_catalog.pg_index x on x.indrelid = r.oid
    join pg_catalog.pg_class i on i.oid = x.indexrelid
    union all
    select 'constraint', pg_catalog.format('%s.%s', r.name, k.conname), pg_catalog.replace(pg_catalog.pg_get_constraintdef(k.oid), ' NOT VALID', '')
    from relation r join pg_catalog.pg_constraint k on k.conrelid = r.oid and k.contype in ('c', 'p', 'u', 'f', 'x')
    union all
    select 'setting', pg_catalog.format('%s.%s', r.name, (pg_catalog.string_to_array(o.option, '='))[1]),
           (pg_catalog.string_to_array(o.option, '='))[2]
    from relation r cross join lateral pg_catalog.unnest(r.reloptions) as o(option)
    union all
    select 'function', pg_catalog.format('%s(%s)', p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)),
           pg_catalog.pg_get_function_result(p.oid)
    from pg_catalog.pg_proc p where p.pronamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid
)
select kind, pg_catalog.replace(name, pg_catalog.quote_ident('pgqueue'::text) || '.', ''),
       pg_catalog.replace(pg_catalog.replace(coalesce(text, ''), pg_catalog.quote_ident('pgqueue'::text) || '.', ''), '"', '')
from part order by kind collate "C", name collate "C", text collate "C"
