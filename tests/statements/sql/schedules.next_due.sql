select extract(epoch from pg_catalog.min(wake_at) - clock_timestamp())::float8 from "pgqueue".schedule
where wake_at > (select case when %(future_only)s then clock_timestamp() else '-infinity' end)
and not name = any(%(excluded)s::text[])
