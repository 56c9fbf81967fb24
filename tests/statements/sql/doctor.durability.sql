select pg_catalog.current_setting('fsync'), pg_catalog.current_setting('full_page_writes'), pg_catalog.current_setting('synchronous_commit'),
       pg_catalog.current_setting('autovacuum'), pg_catalog.current_setting('track_counts')
