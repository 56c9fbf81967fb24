update "pgqueue".operation set ended_at = clock_timestamp(), error = %(error)s::text where id = %(id)s::bigint
