with dead as (
    select d.id as job_id, d.task::text, d.queue::text, d.reason, d.error ->> 'type'::text as error,
        coalesce(d.fingerprint,
        case when d.reason = 'crashed' then 'crashed '::text || d.task::text
        else 'class '::text || coalesce(d.error ->> 'type'::text, d.reason) end) as fingerprint,
        coalesce(%(known)s::jsonb -> d.task::text, d.headers::jsonb -> '$dead_letter_task'::text) as target
    from "pgqueue".dead_letter d
    where d.id = any(%(ids)s::bigint[]) and d.headers::jsonb -> '$dead_letter'::text is null
), given as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as id, target ->> 'task'::text as task, statement_timestamp() as run_at,
        case when pg_catalog.char_length(target ->> 'queue'::text) between 1 and 100
             then target ->> 'queue'::text else 'default' end as queue,
        coalesce(substring(target ->> 'priority'::text, '^(?:-?[0-9]{1,2}|-?100)$'), '0')::smallint as priority,
        coalesce(substring(target ->> 'max_attempts'::text, '^[1-9][0-9]{0,5}$'), '20')::int as max_attempts,
        pg_catalog.jsonb_build_object('job_id'::text, job_id, 'task'::text, task, 'queue'::text, queue, 'reason'::text, reason,
                           'error'::text, error, 'fingerprint'::text, fingerprint) as args,
        pg_catalog.jsonb_build_object('$dead_letter'::text, job_id) || case when lane is null then '{}'::jsonb
            else pg_catalog.jsonb_build_object('$flow'::text, target -> 'flow'::text) end as headers, lane
    from dead cross join lateral (
        select case when n >= -9223372036854775808::numeric and n <= 9223372036854775807::numeric
                    and pg_catalog.jsonb_typeof(target #> '{flow,buckets}'::text[]) = 'array' then n::bigint end as lane
        from (select substring(target #>> '{flow,lane}'::text[], '^-?[0-9]{1,19}$')::numeric as n) as given
    ) as turn
    where pg_catalog.char_length(target ->> 'task'::text) between 1 and 200 and target ->> 'task'::text <> task
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, headers, created_at, lane, state, waits_for)
    select id, task, queue, priority, args, max_attempts, run_at, headers, run_at, lane, case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end from given
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select id, case when lane is null then 'pending' else 'blocked' end from given
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from given where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select pg_catalog.count(given.id) from given, workers_notified
