update "pgqueue".operation set done = done + %(done)s::bigint, skipped = skipped + %(skipped)s::bigint,
    place = %(place)s::smallint, reached = %(reached)s::bigint, locked = %(locked)s::bigint[],
    moved_at = clock_timestamp(), ended_at = case when %(ended)s::boolean then clock_timestamp() end
where id = %(id)s::bigint returning id, kind, filter::text, options::text, actor, via, started_at, ended_at,
       stopped_at, done, skipped, reached, error, place, locked
