select pg_catalog.to_regclass(pg_catalog.quote_ident('pgqueue') || '.migration') is not null
