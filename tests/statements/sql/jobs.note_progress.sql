update "pgqueue".job_live j set progress = g.progress::jsonb
from unnest(%(ids)s::bigint[], %(leases)s::bigint[], %(progress)s::text[]) as g(id, lease, progress)
where j.id = any(array[g.id]) and j.state = 'running' and j.lease = g.lease returning j.id
