select case when pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') then greatest(
    (select pg_catalog.max(extract(epoch from statement_timestamp() - a.xact_start)::float8)
     from pg_catalog.pg_stat_activity a where a.backend_xmin is not null and a.pid <> pg_catalog.pg_backend_pid()),
    (select pg_catalog.max(extract(epoch from statement_timestamp() - p.prepared)::float8) from pg_catalog.pg_prepared_xacts p),
    0::float8) end,
    pg_catalog.pg_notification_queue_usage()
