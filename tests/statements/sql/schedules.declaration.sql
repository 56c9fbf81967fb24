select pg_catalog.to_jsonb(g), g.args::text, array[g.every_seconds, g.jitter_seconds, g.grace_seconds]
from "pgqueue".schedule s, pg_catalog.jsonb_populate_record(null::"pgqueue".schedule, s.declared) as g
where s.name = %(name)s and s.declared is not null
