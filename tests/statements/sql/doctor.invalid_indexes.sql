select i.relname::text, t.relname::text, i.relkind = 'I'
from pg_catalog.pg_index x
join pg_catalog.pg_class i on i.oid = x.indexrelid
join pg_catalog.pg_class t on t.oid = x.indrelid
where i.relnamespace = pg_catalog.to_regnamespace(pg_catalog.quote_ident('pgqueue'::text))::oid and not (x.indisvalid and x.indisready)
and not exists (select from pg_catalog.pg_stat_progress_create_index p where p.index_relid = x.indexrelid)
order by i.relname
