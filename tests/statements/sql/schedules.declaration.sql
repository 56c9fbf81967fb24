select to_jsonb(g), g.args::text
from "pgqueue".schedule s, jsonb_populate_record(null::"pgqueue".schedule, s.declared) as g
where s.name = %(name)s and s.declared is not null
