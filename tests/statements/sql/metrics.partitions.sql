select p.history,
       coalesce(pg_catalog.max(p.last_day) filter (where not p.is_default) - (now() at time zone 'UTC')::date, 0)::float8,
       coalesce(pg_catalog.max(p.bytes) filter (where p.is_default), 0::bigint)
from "pgqueue".partition_status p group by 1
