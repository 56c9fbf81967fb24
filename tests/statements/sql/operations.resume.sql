update "pgqueue".operation set stopped_at = null, moved_at = clock_timestamp()
where id = %(id)s::bigint and ended_at is null and stopped_at is not null returning id
