select rolname::text from pg_catalog.pg_roles where rolname = any(%(names)s::text[])
