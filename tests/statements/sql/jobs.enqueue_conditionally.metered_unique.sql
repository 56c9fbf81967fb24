with given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, g.ord, g.task, g.queue, g.priority, g.args::jsonb as args, g.max_attempts,
           g.tags, g.headers, g.history,
           (g.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as lane, g.key::uuid as key, g.window_seconds,
           pg_catalog.decode(g.unique_hash, 'hex') as unique_key,
           case when g.unique_hash is not null then g.while_live end as unique_live,
           coalesce(g.run_at, statement_timestamp() + pg_catalog.make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + pg_catalog.make_interval(secs => g.ttl)) as expires_at
    from unnest(pg_catalog.string_to_array(%(tasks)s, E'\n'), pg_catalog.string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                pg_catalog.string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[],
                pg_catalog.string_to_array(%(run_ats)s, ',', '')::timestamptz[], pg_catalog.string_to_array(%(delays)s, ',', '')::float8[],
                pg_catalog.string_to_array(%(tags)s, E'\n', ''), pg_catalog.string_to_array(%(headers)s, E'\n', ''), %(histories)s::bool[],
                pg_catalog.string_to_array(%(keys)s, E'\n', ''), pg_catalog.string_to_array(%(windows)s, ',', '')::float8[],
                pg_catalog.string_to_array(%(unique_hashes)s, E'\n', ''), %(while_live)s::bool[],
                pg_catalog.string_to_array(%(expires)s, ',', '')::timestamptz[], pg_catalog.string_to_array(%(ttls)s, ',', '')::float8[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers, history, key,
                              window_seconds, unique_hash, while_live, expires, ttl, ord)
    where not %(read_committed_only)s::bool or pg_catalog.current_setting('transaction_isolation') like 'read %%'
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              unique_key, unique_live, expires_at, lane, state, waits_for)
    select id, task, queue, priority, args, max_attempts, run_at, coalesce(tags::text[], '{}'),
           coalesce(headers::jsonb, '{}'), history, statement_timestamp(), unique_key, unique_live, expires_at, lane, case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end
    from given order by ord
    on conflict do nothing returning id, queue::text, run_at::timestamptz, history, state
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, state from inserted where history
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from inserted where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select given.id, given.run_at, statement_timestamp(), given.id in (select id from inserted), false
from given, workers_notified order by given.ord
