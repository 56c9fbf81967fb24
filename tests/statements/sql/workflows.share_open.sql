select pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('open ' || %(id)s::text))
