select pg_catalog.pg_sleep(%(seconds)s::float8)
