select coalesce(whole.relname, t.relname)::text, coalesce(top.relname, i.relname)::text,
       pg_catalog.sum(pg_catalog.pg_relation_size(i.oid::regclass))::bigint, coalesce(pg_catalog.sum(u.idx_scan), 0::numeric)::bigint
from pg_catalog.pg_class i
join pg_catalog.pg_index x on x.indexrelid = i.oid
join pg_catalog.pg_class t on t.oid = x.indrelid
left join pg_catalog.pg_inherits within on within.inhrelid = i.oid
left join pg_catalog.pg_class top on top.oid = within.inhparent
left join pg_catalog.pg_inherits part on part.inhrelid = t.oid
left join pg_catalog.pg_class whole on whole.oid = part.inhparent
left join pg_catalog.pg_stat_all_indexes u on u.indexrelid = i.oid
where i.relkind = 'i'::"char" and i.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid
group by 1, 2 order by 3 desc, 2 limit %(limit)s::int
