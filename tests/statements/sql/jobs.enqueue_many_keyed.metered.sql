with given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.args, g.headers, g.key, g.ord,
           coalesce(%(run_at)s::timestamptz, statement_timestamp() + pg_catalog.make_interval(secs => %(delay)s::float8),
                    statement_timestamp()) as run_at
    from rows from (pg_catalog.jsonb_array_elements(%(args)s::jsonb), pg_catalog.jsonb_array_elements(%(headers)s::jsonb),
                    pg_catalog.unnest(pg_catalog.string_to_array(%(keys)s, ',', '')::uuid[]))
         with ordinality as g(args, headers, key, ord)
), taken as (
    insert into "pgqueue".idempotency_key (key, request, job_id, created_at, expires_at)
    select key, case when %(compared)s::bool then pg_catalog.hashtextextended(args::text collate "C", 0) end, id,
           statement_timestamp(), statement_timestamp() + pg_catalog.make_interval(secs => %(window)s::float8)
    from given where key is not null order by key on conflict do nothing returning job_id
), tally as materialized (
    select count(*) = %(wanted)s::int as complete from taken
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at, lane, state, waits_for)
    select id, %(task)s, %(queue)s::text, %(priority)s::smallint, args, %(max_attempts)s::int, run_at, %(tags)s::text[],
           headers, %(history)s::bool, statement_timestamp(),
           coalesce(%(expires)s::timestamptz, statement_timestamp() + pg_catalog.make_interval(secs => %(ttl)s::float8)), (headers #>> '{$flow,lane}'::text[])::bigint, 'blocked', 'turn'
    from given
    where (select complete from tally) or key is null or id in (select job_id from taken)
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, 'blocked' from given
    where %(history)s::bool and ((select complete from tally) or key is null or id in (select job_id from taken))
)
select pg_catalog.array_agg(id order by ord),
    case when not (select complete from tally) then array(select job_id from taken) end,
    case when pg_catalog.min(run_at) <= statement_timestamp()
        and exists (select from "pgqueue".worker w where w.waiting and %(queue)s::text = any(w.queues))
        and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
        then pg_catalog.pg_notify('pgqueue', %(queue)s::text) end
from given
