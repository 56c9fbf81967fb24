with given as (
    select id, flow::jsonb as flow, ord
    from unnest(%(ids)s::bigint[], pg_catalog.string_to_array(%(flows)s, E'\n', '')) with ordinality as g(id, flow, ord)
), single as materialized (
    select j.id, j.workflow_id from "pgqueue".dead_letter j
    where j.id = any((select %(ids)s::bigint[])::bigint[]) and j.workflow_id is not null and (j.ties is null or j.ties::int = 4)
), beside as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select workflow_id from single))
    order by w.id for key share skip locked
), stay as materialized (
    select o.id from single o join "pgqueue".workflow w on w.id = any(array[o.workflow_id])
    where w.id not in (select id from beside)
), begun as (
    select greatest((select next_run_at from "pgqueue".operation where id = %(operation)s::bigint), now())
           + pg_catalog.make_interval(secs => %(delay)s::float8) as at
), gone as (
    delete from "pgqueue".dead_letter j using given g
    where j.id = any(array[g.id]) and (j.ties is null or j.ties::int & 16 > 0 or j.ties::int = 4) and j.id not in (select id from stay)
    returning j.*, g.ord, case when g.flow is null then j.headers::jsonb
             when g.flow = 'null'::jsonb then j.headers::jsonb - '$flow'::text
             else j.headers::jsonb || pg_catalog.jsonb_build_object('$flow'::text, g.flow) end as carried
), again as (
    select gone.*, (gone.carried #>> '{$flow,lane}'::text[])::bigint as lane from gone
), back as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, lane, state, waits_for, ties, gate_id, workflow_id)
    select id, task, coalesce(%(queue)s::text, queue), priority, args, tags, carried,
           begun.at + pg_catalog.make_interval(secs => case when %(gap)s::float8 > 0::float8
                                                 then (ord - 1)::float8 * %(gap)s::float8 else 0 end),
           created_at, 0, coalesce(%(attempts)s::int, max_attempts), 0, lease,
           lane, case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end, ties, gate_id, workflow_id
    from again cross join begun
    returning id, queue::text, run_at::timestamptz, lease, state
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, lease, reason)
    select id, 'failed', state, lease, %(reason)s::text from back
), paced as (
    update "pgqueue".operation o
    set next_run_at = begun.at - pg_catalog.make_interval(secs => %(delay)s::float8)
                      + pg_catalog.make_interval(secs => %(gap)s::float8 * (select count(*) from back)::float8)
    from begun where o.id = %(operation)s::bigint and %(gap)s::float8 > 0::float8
), resumable as materialized (
    select c.rule, c.key from (
        select g.id, k.rule, k.key from (select id, headers from gone where headers::jsonb ? '$flow'::text) as g
        cross join lateral (
        select pg_catalog.split_part(b.name, '/', 1) as rule, pg_catalog.substr(b.name, position('/' in b.name) + 1) as key
        from pg_catalog.jsonb_array_elements_text(headers::jsonb -> '$flow'::text -> 'buckets'::text) as b(name)) as k order by k.rule, k.key, g.id) as g
    cross join lateral (
        select c.rule, c.key from "pgqueue".limit_key c
        where c.rule = any(array[g.rule]) and c.key = g.key and c.paused_by = 'pgqueue'
        and c.paused_why = pg_catalog.concat_ws(' ', 'dead letter', g.id) for update) as c
), resumed as (
    update "pgqueue".limit_key c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = now(), updated_by = 'pgqueue'
    from resumable r where c.rule = any(array[r.rule]) and c.key = r.key
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from back where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select pg_catalog.count(back.id) from back, workers_notified
