select id, kind, filter::text, options::text, actor, via, started_at, ended_at,
       stopped_at, done, skipped, reached, error, place, locked from "pgqueue".operation
where %(id)s::bigint is null or id = %(id)s::bigint order by id desc limit %(limit)s::int
