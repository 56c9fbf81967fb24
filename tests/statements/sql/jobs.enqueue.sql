with given as materialized (
    select nextval('"pgqueue".job_id') as id, g.ord, g.task, g.queue, g.priority, g.args, g.max_attempts, g.tags, g.headers,
           g.history,
           coalesce(g.run_at, statement_timestamp() + make_interval(secs => g.delay), statement_timestamp()) as run_at,
           coalesce(g.expires, statement_timestamp() + make_interval(secs => g.ttl)) as expires_at
    from unnest(string_to_array(%(tasks)s, E'\n'), string_to_array(%(queues)s, E'\n'), %(priorities)s::smallint[],
                string_to_array(%(args)s, E'\n'), %(max_attempts)s::int[], %(run_ats)s::timestamptz[],
                %(delays)s::float8[], string_to_array(%(tags)s, E'\n', ''), string_to_array(%(headers)s, E'\n', ''),
                %(histories)s::bool[], %(expires)s::timestamptz[], %(ttls)s::float8[])
         with ordinality as g(task, queue, priority, args, max_attempts, run_at, delay, tags, headers, history,
                              expires, ttl, ord)
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at)
    select id, task, queue, priority, args::jsonb, max_attempts, run_at, coalesce(tags::text[], '{}'),
           coalesce(headers::jsonb, '{}'), history, statement_timestamp(), expires_at
    from given order by ord
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, 'pending' from given where history order by ord
), workers_notified as (
    select count(pg_notify('pgqueue', due.queue))
    from (select distinct queue from given where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5
)
select given.id, given.run_at, statement_timestamp() from given, workers_notified order by given.ord
