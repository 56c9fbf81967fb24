with given as materialized (
    select g.id, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           pg_catalog.decode(g.unique_hash, 'hex') as unique_key, (g.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as lane,
           coalesce(g.run_at, statement_timestamp() + pg_catalog.make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + pg_catalog.make_interval(secs => g.ttl)) as expires_at
    from unnest((select %(ids)s::bigint[]), (select pg_catalog.string_to_array(%(queues)s, E'\n')),
                (select %(priorities)s::smallint[]), (select pg_catalog.string_to_array(%(args)s, E'\n')),
                (select %(max_attempts)s::int[]),
                (select pg_catalog.string_to_array(%(run_ats)s, ',', '')::timestamptz[]),
                (select pg_catalog.string_to_array(%(delays)s, ',', '')::float8[]),
                (select pg_catalog.string_to_array(%(tags)s, E'\n', '')), (select pg_catalog.string_to_array(%(headers)s, E'\n', '')),
                (select pg_catalog.string_to_array(%(expires)s, ',', '')::timestamptz[]),
                (select pg_catalog.string_to_array(%(ttls)s, ',', '')::float8[]),
                (select pg_catalog.string_to_array(%(unique_hashes)s, E'\n', '')))
         as g(id, queue, priority, args, max_attempts, run_at, delay, tags, headers, expires, ttl, unique_hash)
), held as materialized (
    select g.*, (job.lane is null) <> (g.lane is null) and (job.unique_key = g.unique_key) is true as turns
    from given g cross join lateral (
        select lane, unique_key from "pgqueue".job_live where id = any(array[g.id]) and attempt = 0 for update
    ) as job
), changed as (
    update "pgqueue".job_live j
    set queue = g.queue, priority = g.priority, args = g.args::jsonb, max_attempts = g.max_attempts, run_at = g.run_at,
        tags = coalesce(g.tags::text[], '{}'), headers = coalesce(g.headers::jsonb, '{}'),
        expires_at = g.expires_at, lane = g.lane
    from held g where j.id = any(array[g.id]) and j.attempt = 0 and j.state in ('pending', 'blocked')
    and (j.unique_key = g.unique_key) is true and not g.turns
    returning j.id, j.queue::text, j.run_at::timestamptz, j.state, j.lease, j.history
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, lease, reason)
    select id, state, state, lease, 'replaced' from changed where history
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from changed where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select changed.id, false from changed, workers_notified
union all select held.id, true from held where held.turns
