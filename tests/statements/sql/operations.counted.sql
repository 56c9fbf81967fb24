update "pgqueue".operation set done = %(done)s::bigint, skipped = %(skipped)s::bigint, ended_at = clock_timestamp()
where id = %(id)s::bigint
