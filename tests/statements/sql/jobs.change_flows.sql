select "pgqueue".change_flow(g.id, g.flow::jsonb)
from unnest(%(ids)s::bigint[], pg_catalog.string_to_array(%(flows)s, E'\n', '')) as g(id, flow)
