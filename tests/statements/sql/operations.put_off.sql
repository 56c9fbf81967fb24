update "pgqueue".operation set moved_at = clock_timestamp() where id = %(id)s::bigint
