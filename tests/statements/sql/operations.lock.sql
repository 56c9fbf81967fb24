select id, kind, filter::text, options::text, actor, via, started_at, ended_at,
       stopped_at, done, skipped, reached, error, place, locked from "pgqueue".operation
where id = %(id)s::bigint and ended_at is null and stopped_at is null for update
