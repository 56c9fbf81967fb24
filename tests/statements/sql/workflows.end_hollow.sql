with looked as materialized (
    select w.id, w.root_id, w.name, w.created_at, w.state, w.sealed from "pgqueue".workflow w
    where not w.settled and w.created_at > %(after)s::timestamptz and w.created_at < now() - interval '1 hour'
    and %(worker)s::uuid = (
        select w.id from "pgqueue".worker w where w.kind = 'worker' and w.lost_at is null and not w.stopping
        and w.heartbeat_at > now() - pg_catalog.make_interval(secs => w.lease_seconds) order by w.id limit 1)
    order by w.created_at limit %(at_most)s::int
), hollow as materialized (
    select l.id, l.name, l.created_at from looked l
    where l.id = l.root_id and l.state = 'running' and l.sealed
    and (select true from "pgqueue".job_live j where j.workflow_id = l.id and j.gate_id is not null limit 1) is null
    and (select true from "pgqueue".dead_letter d where d.workflow_id = l.id and d.ties::int & 16 > 0 limit 1) is null
    and (select true from "pgqueue".workflow w
         where w.root_id = l.id and w.root_id <> w.id and w.state <> 'running' and not w.settled limit 1) is null
), whole as materialized (
    select h.id, h.id as root_id, w.gate_id, w.state, w.open_gates from hollow h join "pgqueue".workflow w on w.id = h.id
    union all
    select w.id, w.root_id, w.gate_id, w.state, w.open_gates from hollow h cross join lateral (
        select w.* from "pgqueue".workflow w where w.root_id = any(array[h.id]) and w.root_id <> w.id) as w
), gates_held as materialized (
    select g.id, g.workflow_id, g.remaining, w.root_id,
           (select count(*) from whole o where o.gate_id = g.id and o.state = 'running')::int as groups
    from "pgqueue".gate g join whole w on w.id = g.workflow_id
    where g.workflow_id = any(array(select id from whole where state = 'running')) order by g.id + 0 for update of g
), gates_closed as (
    update "pgqueue".gate g set remaining = h.groups, cancelled = g.cancelled + h.remaining - h.groups
    from gates_held h where g.id = any(array[h.id]) and h.remaining > h.groups
    returning g.workflow_id, g.remaining = 0 as closed, g.failed, g.cancelled
), told as materialized (
    select workflow_id as id, (count(*) filter (where closed))::int as gates, pg_catalog.sum(failed)::int as failed,
           pg_catalog.sum(cancelled)::int as cancelled
    from gates_closed where closed group by workflow_id
), workflows_held as materialized (
    select w.id from "pgqueue".workflow w
    where w.id = any(array(select id from told)) and (select count(*) from gates_held) > 0
    order by w.id for no key update
), ended as (
    update "pgqueue".workflow w
    set open_gates = w.open_gates - t.gates, failed = w.failed + t.failed, cancelled = w.cancelled + t.cancelled,
        state = case when w.open_gates > t.gates then w.state when w.failed + t.failed > 0 then 'failed'
                     else 'cancelled' end,
        ended_at = case when w.open_gates = t.gates then clock_timestamp() end,
        stop_reason = coalesce(w.stop_reason, 'jobs gone')
    from told t where w.id = any(array[t.id]) and w.state = 'running' and w.open_gates >= t.gates
    and (select count(*) from workflows_held) > 0
    returning w.id
)
select h.id, h.name, h.created_at, false from hollow h where h.id in (
    select w.root_id from whole w join ended e on e.id = w.id)
union all
select null, null, pg_catalog.max(l.created_at), true from looked l having count(*) = %(at_most)s::int
