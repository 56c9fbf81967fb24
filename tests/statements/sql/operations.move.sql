update "pgqueue".operation set done = done + %(done)s::bigint, skipped = skipped + %(skipped)s::bigint,
    reached = coalesce(%(reached)s::bigint, reached), moved_at = clock_timestamp(),
    ended_at = case when %(reached)s::bigint is null then clock_timestamp() end
where id = %(id)s::bigint
