select id from "pgqueue".operation
where ended_at is null and stopped_at is null and kind = any(%(kinds)s::text[])
and moved_at < clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s::float8)
order by id limit 1
