select s.sequencename::text, s.last_value, s.max_value,
       pg_catalog.has_sequence_privilege(pg_catalog.format('%I.%I', s.schemaname, s.sequencename), 'select, usage')
from pg_catalog.pg_sequences s where s.schemaname = 'pgqueue'::name order by s.sequencename
