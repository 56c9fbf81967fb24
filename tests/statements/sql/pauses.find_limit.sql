select r.kind = 'limit' and r.declared is not null and r.declared ->> 'keyed_by'::text is null
from "pgqueue".limit_rule r where r.name = %(limit)s::text
