update "pgqueue".subscription s set task = g.task
from pg_catalog.jsonb_to_recordset(%(renames)s::jsonb) as g(task text, alias text)
where s.task = any(array[g.alias]) and not exists (select from "pgqueue".subscription k where k.task = g.task)
