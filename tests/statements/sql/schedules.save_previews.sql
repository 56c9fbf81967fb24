update "pgqueue".schedule_ahead a set ticks = g.ticks, words = g.words, stale_at = g.stale_at
from pg_catalog.jsonb_to_recordset(%(rows)s::jsonb) as g(name text, ticks timestamptz[], words text[], stale_at timestamptz)
where a.name = g.name
