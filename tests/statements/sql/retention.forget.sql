delete from "pgqueue".pruned p where p.relation <> ''
and pg_catalog.to_regclass(pg_catalog.format('%I.%I', 'pgqueue'::text, p.relation)) is null
