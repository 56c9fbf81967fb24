select pg_catalog.current_setting('pgqueue.block', true)
