with recursive whole as materialized (
    select w.id, w.state, w.gate_id from "pgqueue".workflow w where w.id = %(id)s::bigint
    union all
    select w.id, w.state, w.gate_id from "pgqueue".workflow w where w.root_id = %(id)s::bigint and w.root_id <> w.id
), counter as materialized (
    select g.* from whole cross join lateral (
        select g.id, g.workflow_id, g.first_id, g.last_id from "pgqueue".gate g where g.workflow_id = whole.id) as g
), span as materialized (
    select distinct first_id, last_id from counter
), node as materialized (
    select f.id, f.state, f.gate_id, f.reason from span cross join lateral (
        select f.id, f.state, f.gate_id, f.reason from "pgqueue".job_finished f
        where f.id >= span.first_id and f.id <= span.last_id and f.workflow_id = %(id)s::bigint
        and f.finished_at >= %(created_at)s::timestamptz - interval '1 day') as f
    union all
    select d.id, 'failed', d.gate_id, null from "pgqueue".dead_letter d where d.workflow_id = %(id)s::bigint
), edge as materialized (
    select e.parent_id, e.child_id, e.runs_after from span cross join lateral (
        select d.parent_id, d.child_id, d.runs_after from "pgqueue".dependency d
        where d.parent_id >= span.first_id and d.parent_id <= span.last_id and d.workflow_id = %(id)s::bigint) as e
), watched as materialized (
    select distinct w.id from whole w join edge e on e.parent_id = w.id where e.runs_after = 'f'
), shut(ids) as (
    select '{}'::bigint[]
    union
    select l.ids from shut cross join lateral (
        with recursive never(id) as (
    select e.child_id from edge e
    where e.runs_after = 'f' and e.child_id in (select id from node where state = 'cancelled')
    and (e.parent_id in (select id from node where state = 'succeeded') or e.parent_id = any(shut.ids))
    union
    select e.child_id from never n cross join lateral (
        select d.child_id from "pgqueue".dependency d
        where d.parent_id = n.id and d.runs_after <> 'e' offset 0) as e
    where (n.id in (select parent_id from edge)) is true
    and (e.child_id in (select id from node where state = 'cancelled')) is true
), reopened(id) as (
    select c.workflow_id from (
            select n.gate_id from node n left join never v on v.id = n.id
            where n.state <> 'succeeded' and v.id is null) as b join counter c on c.id = b.gate_id
    union
    select c.workflow_id from reopened r join whole w on w.id = r.id join counter c on c.id = w.gate_id
)
        select array(select id from watched where id not in (select id from reopened) order by id) as ids) as l
    where exists (select from watched)
), never(id) as (
    select e.child_id from edge e
    where e.runs_after = 'f' and e.child_id in (select id from node where state = 'cancelled')
    and (e.parent_id in (select id from node where state = 'succeeded') or e.parent_id = any((select ids from shut order by pg_catalog.cardinality(ids) desc limit 1)::bigint[]))
    union
    select e.child_id from never n cross join lateral (
        select d.child_id from "pgqueue".dependency d
        where d.parent_id = n.id and d.runs_after <> 'e' offset 0) as e
    where (n.id in (select parent_id from edge)) is true
    and (e.child_id in (select id from node where state = 'cancelled')) is true
), found as materialized (
    select count(*)::int as ended,
           (select count(*) from (select from "pgqueue".job_live j where j.workflow_id = %(id)s::bigint limit 1) as l)::int
               as living
    from node
), back as materialized (
    select n.id, n.gate_id, v.id is not null as doomed from node n left join never v on v.id = n.id cross join found
    where n.state <> 'succeeded' and (v.id is null or n.reason is distinct from 'skipped')
    and found.ended = %(jobs)s::int
), reopened(id) as (
    select c.workflow_id from back b join counter c on c.id = b.gate_id
    union
    select c.workflow_id from reopened r join whole w on w.id = r.id join counter c on c.id = w.gate_id
), late_no_more as (
    update "pgqueue".dependency d set late = null
    where d.late and d.workflow_id = %(id)s::bigint and exists (select from back)
), waits as materialized (
    select l.id, pg_catalog.sum(l.edges)::int as edges, pg_catalog.bool_or(l.doomed) as doomed from (
        select e.child_id as id, 1 as edges, false as doomed from edge e join (
            select id from back union all select id from reopened) as p on p.id = e.parent_id
        union all
        select b.id, 1, true from back b where b.doomed) as l
    group by l.id
), gone_dead as (
    delete from "pgqueue".dead_letter d where d.id = any(array(select id from back))
    returning d.id, d.task, d.queue, d.priority, d.args, d.tags, d.headers, d.created_at, d.max_attempts, d.lease,
        d.ties, d.gate_id, d.workflow_id
), gone_finished as (
    delete from "pgqueue".job_finished f
    where f.id = any(array(select id from back)) and f.state = 'cancelled'
    and f.finished_at >= %(created_at)s::timestamptz - interval '1 day'
    returning f.id, f.task, f.queue, f.priority, f.args, f.tags, f.headers, f.created_at, f.max_attempts, f.lease,
        f.ties, f.gate_id, f.workflow_id
), gone as materialized (
    select g.*, (g.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as lane from (
        select *, 'failed' as was from gone_dead union all select *, 'cancelled' from gone_finished) as g
), revived as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, lane, state, waits_for, waits_on, cancel_requested_at, ties, gate_id, workflow_id)
    select g.id, g.task, g.queue, g.priority, g.args, g.tags, g.headers, statement_timestamp(), g.created_at, 0,
           g.max_attempts, 0, g.lease, g.lane,
           case when w.edges is null and g.lane is null then 'pending' else 'blocked' end,
           case when w.edges is not null then 'jobs' when g.lane is not null then 'turn' end, w.edges,
           case when w.doomed then now() end,
           case when g.id in (select parent_id from edge) then coalesce(g.ties::int, 0) | 1 else g.ties end, g.gate_id,
           g.workflow_id
    from gone g left join waits w on w.id = g.id order by g.id
    returning id, queue::text, run_at::timestamptz, lease, state, waits_for, cancel_requested_at is not null as doomed
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, lease, reason)
    select r.id, g.was, r.state, r.lease, %(reason)s::text from revived r join gone g on g.id = r.id
), gates_raised as (
    update "pgqueue".gate g set remaining = m.members, failed = 0, cancelled = 0
    from (select c.gate_id as id, count(*)::int as members from (
              select gate_id from back
              union all select gate_id from whole where id in (select id from reopened)) as c
          where c.gate_id is not null group by c.gate_id) as m
    where g.id = any(array[m.id])
    returning g.workflow_id
), reopening as (
    update "pgqueue".workflow w
    set state = 'running', ended_at = null, settled = false, failed = 0, cancelled = 0, stop_reason = null,
        stop_running = false, open_gates = r.gates
    from (select workflow_id as id, count(*)::int as gates from gates_raised group by workflow_id) as r
    where w.id = any(array[r.id])
), settled as (
    update "pgqueue".workflow w set settled = true
    where w.id = any(array(select id from whole where state <> 'running' except select id from reopened))
    and not w.settled and exists (select from back)
), resumed as (
    update "pgqueue".limit_key c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = now(), updated_by = 'pgqueue'
    from (select g.id, k.rule, k.key from (select id, headers from gone where headers::jsonb ? '$flow'::text) as g
          cross join lateral (
        select pg_catalog.split_part(b.name, '/', 1) as rule, pg_catalog.substr(b.name, position('/' in b.name) + 1) as key
        from pg_catalog.jsonb_array_elements_text(headers::jsonb -> '$flow'::text -> 'buckets'::text) as b(name)) as k) as g
    where c.rule = any(array[g.rule]) and c.key = g.key and c.paused_by = 'pgqueue'
    and c.paused_why = pg_catalog.concat_ws(' ', 'dead letter', g.id)
), due as (
    select queue, run_at from revived where waits_for is distinct from 'jobs'
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from due where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), keepers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!workflow')) from (select where exists (select from revived where doomed)) as l
    where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select found.ended, found.living, (select count(*) from revived)::int
from found, workers_notified, keepers_notified
