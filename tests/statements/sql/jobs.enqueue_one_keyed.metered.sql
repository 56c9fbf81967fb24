with given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, %(args)s::jsonb as args, %(headers)s::jsonb as headers,
           %(key)s::uuid as key,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + pg_catalog.make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    where not %(read_committed_only)s::bool or pg_catalog.current_setting('transaction_isolation') like 'read %%'
), taken as (
    insert into "pgqueue".idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then pg_catalog.hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + pg_catalog.make_interval(secs => %(window)s::float8)
    from given on conflict do nothing returning job_id
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at, lane, state, waits_for)
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           headers, %(history)s::bool, statement_timestamp(),
           coalesce(%(expires)s::timestamptz, statement_timestamp() + pg_catalog.make_interval(secs => %(ttl)s::float8)), (headers #>> '{$flow,lane}'::text[])::bigint, 'blocked', 'turn'
    from given, taken
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select job_id, 'blocked' from taken where %(history)s::bool
)
select id, run_at, statement_timestamp(), job_id is not null, job_id is not null,
    case when job_id is not null and run_at <= statement_timestamp()
        and exists (select from "pgqueue".worker w where w.waiting and %(queue)s::text = any(w.queues))
        and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
        then pg_catalog.pg_notify('pgqueue', %(queue)s::text) end
from given left join taken on true
