with given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.args, g.ord, g.headers,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + pg_catalog.make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from rows from (pg_catalog.jsonb_array_elements(%(args)s::jsonb), pg_catalog.jsonb_array_elements(%(headers)s::jsonb))
         with ordinality as g(args, headers, ord)
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at, lane, state, waits_for)
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           headers, %(history)s::bool, statement_timestamp(), (headers #>> '{$flow,lane}'::text[])::bigint, 'blocked', 'turn'
    from given
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, 'blocked' from given where %(history)s::bool
)
select pg_catalog.array_agg(id order by ord), pg_catalog.min(run_at), statement_timestamp(),
    case when pg_catalog.min(run_at) <= statement_timestamp()
        and exists (select from "pgqueue".worker w where w.waiting and %(queue)s::text = any(w.queues))
        and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
        then pg_catalog.pg_notify('pgqueue', %(queue)s::text) end
from given
