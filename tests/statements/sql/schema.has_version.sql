select to_regclass(quote_ident('pgqueue') || '.migration') is not null
