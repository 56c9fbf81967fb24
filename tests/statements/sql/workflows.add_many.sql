with given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.args, g.ord,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + pg_catalog.make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from pg_catalog.jsonb_array_elements(%(args)s::jsonb) with ordinality as g(args, ord)
), span as materialized (
    select count(*) as jobs, pg_catalog.min(id) as first_id, pg_catalog.max(id) as last_id, pg_catalog.min(run_at) as run_at from given
), gated as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.place
    from pg_catalog.generate_series(0::bigint, %(gates)s::bigint - 1::bigint) as g(place)
), gates as materialized (
    select pg_catalog.array_agg(id order by place) as ids from gated
), counters as (
    insert into "pgqueue".gate (id, workflow_id, members, remaining, first_id, last_id, counted, jobs)
    select g.id, %(into)s::bigint, m.members, m.members, span.first_id, span.last_id, %(counted)s::bool,
           case when g.place = 0 and not %(counted)s::bool then span.jobs else 0 end
    from gated g cross join span cross join lateral (
        select span.jobs / %(gates)s::bigint
               + case when g.place < span.jobs %% %(gates)s::bigint then 1::bigint else 0::bigint end as members
    ) as m
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, created_at, lane,
                              state, waits_for, ties, gate_id, workflow_id)
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           coalesce(%(headers)s::jsonb, '{}'), statement_timestamp(), (%(headers)s::jsonb #>> '{$flow,lane}'::text[])::bigint, case when (%(headers)s::jsonb #>> '{$flow,lane}'::text[])::bigint is null then 'pending' else 'blocked' end,
           case when (%(headers)s::jsonb #>> '{$flow,lane}'::text[])::bigint is not null then 'turn' end, %(ties)s::smallint,
           (select ids from gates)[((ord - 1::bigint) %% %(gates)s::bigint)::int + 1], %(root)s::bigint
    from given
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, case when (%(headers)s::jsonb #>> '{$flow,lane}'::text[])::bigint is null then 'pending' else 'blocked' end from given
), raised as (
    update "pgqueue".workflow w set open_gates = w.open_gates + %(gates)s::int, jobs = w.jobs + span.jobs::int
    from span where w.id = %(into)s::bigint and %(counted)s::bool
)
select jobs, case when run_at <= statement_timestamp() and exists (select from "pgqueue".worker w where w.waiting and %(queue)s::text = any(w.queues))
        and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
                  then pg_catalog.pg_notify('pgqueue', %(queue)s::text) end
from span
