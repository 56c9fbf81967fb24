update "pgqueue".operation set done = 1, ended_at = clock_timestamp() where id = %(id)s::bigint
