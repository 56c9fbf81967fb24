update "pgqueue".operation set stopped_at = clock_timestamp()
where id = %(id)s::bigint and ended_at is null and stopped_at is null returning id
