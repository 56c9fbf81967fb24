select g.name, s.declared::text, s.name is null or s.app is distinct from g.app or s.disabled_at is not null
from pg_catalog.jsonb_populate_recordset(null::"pgqueue".schedule, %(rows)s::jsonb) as g left join "pgqueue".schedule s using (name)
where s.name is null or s.declared is distinct from g.declared or s.app is distinct from g.app
or s.disabled_at is not null
