with grouped as materialized (
    select case when g.ord = 1 then %(into)s::bigint else pg_catalog.nextval('"pgqueue".job_id') end as id, g.*
    from unnest(pg_catalog.string_to_array(%(group_names)s, E'\n'), pg_catalog.string_to_array(%(group_gates)s, ',', '')::int[],
                pg_catalog.string_to_array(%(policies)s, E'\n'), %(open_gates)s::int[])
         with ordinality as g(name, gate, on_failure, open_gates, ord)
), given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.ord, g.task, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           (g.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as lane, nullif(g.waits, 0) as waits, g.ties, g.gate,
           coalesce(g.run_at, statement_timestamp() + pg_catalog.make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + pg_catalog.make_interval(secs => g.ttl)) as expires_at
    from unnest(pg_catalog.string_to_array(%(tasks)s, E'\n'), pg_catalog.string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                pg_catalog.string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[],
                pg_catalog.string_to_array(%(run_ats)s, ',', '')::timestamptz[], pg_catalog.string_to_array(%(delays)s, ',', '')::float8[],
                pg_catalog.string_to_array(%(tags)s, E'\n', ''), pg_catalog.string_to_array(%(headers)s, E'\n', ''),
                pg_catalog.string_to_array(%(expires)s, ',', '')::timestamptz[], pg_catalog.string_to_array(%(ttls)s, ',', '')::float8[],
                %(waits)s::int[], pg_catalog.string_to_array(%(ties)s, ',', '')::smallint[],
                pg_catalog.string_to_array(%(gates)s, ',', '')::int[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers,
                              expires, ttl, waits, ties, gate, ord)
), gated as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.*
    from unnest(%(gate_groups)s::int[], %(gate_members)s::int[]) with ordinality as g(of, members, ord)
), groups as materialized (
    select pg_catalog.array_agg(id order by ord) as ids from grouped
), nodes as materialized (
    select pg_catalog.array_agg(id order by ord) as ids, pg_catalog.min(id) as first_id, pg_catalog.max(id) as last_id from given
), gates as materialized (
    select pg_catalog.array_agg(id order by ord) as ids from gated
), workflows as (
    insert into "pgqueue".workflow (id, root_id, name, gate_id, on_failure, jobs, open_gates)
    select g.id, %(root)s::bigint, g.name, (select ids from gates)[g.gate], g.on_failure,
           case when g.ord = 1 then %(jobs)s::int else 0 end, g.open_gates
    from grouped g where g.ord > 1
), counters as (
    insert into "pgqueue".gate (id, workflow_id, members, remaining, first_id, last_id, counted, jobs)
    select g.id, (select ids from groups)[g.of], g.members, g.members, coalesce((select pg_catalog.min(id) from grouped where ord > 1), (select first_id from nodes)),
           coalesce((select last_id from nodes), (select ids from groups)[1]), %(counted)s::bool or g.of > 1,
           case when g.ord = 1 and not %(counted)s::bool then %(jobs)s::int else 0 end
    from gated g
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at,
                              expires_at, lane, state, waits_for, waits_on, ties, gate_id, workflow_id)
    select id, task, queue, priority, args::jsonb, max_attempts, run_at, coalesce(tags::text[], '{}'),
           coalesce(headers::jsonb, '{}'), statement_timestamp(), expires_at, lane, case when waits is null and lane is null then 'pending' else 'blocked' end,
           case when waits is not null then 'jobs' when lane is not null then 'turn' end, waits, ties,
           (select ids from gates)[gate], %(root)s::bigint
    from given order by ord
), edges as (
    insert into "pgqueue".dependency (parent_id, child_id, ord, runs_after, argument, position, workflow_id, late)
    select case when e.parent > 0 then (select ids from nodes)[e.parent]
                when e.parent <= -1000000000 then (%(outside)s::bigint[])[1 - e.parent - 1000000000]
                else (select ids from groups)[-e.parent] end,
           (select ids from nodes)[e.child], e.ord, e.runs_after, e.argument, e.position, %(root)s::bigint, case when e.parent <= -1000000000 then true end
    from unnest(%(edge_parents)s::int[], %(edge_children)s::int[], pg_catalog.string_to_array(%(edge_whens)s, ','),
                pg_catalog.string_to_array(%(edge_arguments)s, E'\n', ''), pg_catalog.string_to_array(%(edge_positions)s, ',', '')::int[])
         with ordinality as e(parent, child, runs_after, argument, position, ord)
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, case when waits is null and lane is null then 'pending' else 'blocked' end from given order by ord
), first as (
    select queue, run_at from given where waits is null
), raised as (
    update "pgqueue".workflow w
    set open_gates = w.open_gates + (select count(*) from gated g where g.of = 1)::int, jobs = w.jobs + %(jobs)s::int
    where w.id = %(into)s::bigint and %(counted)s::bool
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from first where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select groups.ids, nodes.ids, statement_timestamp() from groups, nodes, workers_notified
