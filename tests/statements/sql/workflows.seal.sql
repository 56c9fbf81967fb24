with added as materialized (
    select g.id, g.remaining, g.failed, g.cancelled, g.jobs from "pgqueue".gate g
    where g.workflow_id = %(id)s::bigint and not g.counted order by g.id for update
), counted as (
    update "pgqueue".gate g set counted = true from added a where g.id = any(array[a.id]) returning g.id
), total as materialized (
    select (count(*) filter (where remaining > 0))::int as gates, coalesce(pg_catalog.sum(jobs), 0::bigint)::int as jobs,
           coalesce(pg_catalog.sum(failed) filter (where remaining = 0), 0::bigint)::int as failed,
           coalesce(pg_catalog.sum(cancelled) filter (where remaining = 0), 0::bigint)::int as cancelled from added
)
update "pgqueue".workflow w
set sealed = true, jobs = w.jobs + t.jobs, open_gates = w.open_gates - 1 + t.gates, failed = w.failed + t.failed,
    cancelled = w.cancelled + t.cancelled,
    state = case when w.open_gates - 1 + t.gates > 0 then w.state when w.failed + t.failed > 0 then 'failed'
                 when w.cancelled + t.cancelled > 0 then 'cancelled' else 'succeeded' end,
    ended_at = case when w.open_gates - 1 + t.gates = 0 then clock_timestamp() end
from total t where w.id = %(id)s::bigint and not w.sealed returning w.id
