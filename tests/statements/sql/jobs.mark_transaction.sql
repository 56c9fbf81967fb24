select pg_catalog.set_config('pgqueue.block', %(mark)s, true)
