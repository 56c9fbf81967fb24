with given as materialized (
    select g.id, g.args, g.flow::jsonb as flow
    from unnest((select %(ids)s::bigint[]), (select %(args)b::text[]), (select pg_catalog.string_to_array(%(flows)s, E'\n', '')))
         as g(id, args, flow)
), old as materialized (
    select j.id, j.state, j.args::jsonb as args, j.queue::text as queue, j.priority::smallint as priority,
           j.run_at::timestamptz as run_at, case when given.flow is null then j.headers::jsonb
             when given.flow = 'null'::jsonb then j.headers::jsonb - '$flow'::text
             else j.headers::jsonb || pg_catalog.jsonb_build_object('$flow'::text, given.flow) end as headers,
           case when given.flow is null or j.waits_for in ('pause', 'jobs')
                     or j.waits_for = 'task' and given.flow = 'null'::jsonb
                then j.waits_for when given.flow <> 'null'::jsonb then 'turn' end as waits_for
    from given join "pgqueue".job_live j on j.id = any(array[given.id])
    where j.state in ('pending', 'blocked')
), edited as (
    update "pgqueue".job_live j
    set args = coalesce(given.args::jsonb, j.args::jsonb), queue = coalesce(%(queue)s::text, j.queue::text),
        priority = coalesce(%(priority)s::int::smallint, j.priority::smallint),
        run_at = coalesce(%(run_at)s::timestamptz, now() + pg_catalog.make_interval(secs => %(delay)s::float8),
                          j.run_at::timestamptz),
        headers = old.headers, lane = (old.headers #>> '{$flow,lane}'::text[])::bigint, waits_for = old.waits_for,
        state = case when old.waits_for is null then 'pending' else 'blocked' end
    from given join old on old.id = given.id
    where j.id = any(array[given.id])
    returning j.id, j.queue::text, j.run_at::timestamptz, j.attempt, j.lease, old.state as was, j.state,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
            'previous_queue', case when j.queue::text <> old.queue then old.queue end,
            'previous_priority', case when j.priority::smallint <> old.priority then old.priority end,
            'previous_run_at', case when j.run_at::timestamptz <> old.run_at then old.run_at end))
        || case when given.args is null then '{}'::jsonb
                else pg_catalog.jsonb_build_object('previous_args', old.args) end as previous
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason, error)
    select id, was, state, attempt, lease, %(reason)s::text, previous from edited
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from edited where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select edited.id from edited, workers_notified
