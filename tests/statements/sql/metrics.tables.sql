select coalesce(parent.relname, c.relname)::text, coalesce(pg_catalog.sum(s.n_dead_tup), 0::numeric)::bigint,
       coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(c.oid::regclass)), 0::numeric)::bigint
from pg_catalog.pg_class c
left join pg_catalog.pg_inherits i on i.inhrelid = c.oid
left join pg_catalog.pg_class parent on parent.oid = i.inhparent
left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
where c.relkind = 'r'::"char" and c.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'))::oid group by 1
