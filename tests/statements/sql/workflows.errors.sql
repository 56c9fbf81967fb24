select d.id, d.error::jsonb ->> 'type'::text, left(pg_catalog.split_part(d.error::jsonb ->> 'message'::text, E'\n', 1), 200)
from "pgqueue".dead_letter d where d.workflow_id = %(id)s::bigint and d.error is not null
order by d.workflow_id, d.id limit %(limit)s::int
