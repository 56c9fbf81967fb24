with given as materialized (
    select pg_catalog.nextval('"pgqueue".event_id') as id, clock_timestamp() as at, g.topic, g.key, g.data::jsonb as data,
           %(headers)s::jsonb as headers, g.ord
    from unnest(pg_catalog.string_to_array(%(topics)s, E'\n'), pg_catalog.string_to_array(%(keys)s, E'\n', ''),
                pg_catalog.string_to_array(%(data)s, E'\n')) with ordinality as g(topic, key, data, ord)
), matched as materialized (
    select distinct a.topic, p.subscription_id
    from unnest(pg_catalog.string_to_array(%(anchored)s, E'\n'), pg_catalog.string_to_array(%(anchors)s, E'\n')) as a(topic, anchor)
    cross join lateral (select p.* from "pgqueue".subscription_pattern p where p.anchor = any(array[a.anchor]) offset 0) as p
    join "pgqueue".subscription s on s.id = any(array[p.subscription_id])
        and s.disabled_at is null and p.pattern = any(s.patterns)
    where p.expression is null or '.' || a.topic ~ p.expression
), published as (
    insert into "pgqueue".published_event (id, at, topic, key, data, headers, delivered)
    select g.id, g.at, g.topic, g.key, g.data, g.headers, coalesce(d.subscriptions, '{}'::int[])
    from given g left join (select m.topic, pg_catalog.array_agg(m.subscription_id order by m.subscription_id) as subscriptions
                            from matched m group by m.topic) as d using (topic)
), awaited as (
    insert into "pgqueue".awaited_event (name, key, data, at, published_id)
    select g.topic, g.key, g.data, g.at, g.id from given g
    where g.key is not null and g.topic = any(array(
        select t.name from (select distinct a.topic from unnest(pg_catalog.string_to_array(%(anchored)s, E'\n'), pg_catalog.string_to_array(%(anchors)s, E'\n')) as a(topic, anchor)) as d
        cross join lateral (select a.name from "pgqueue".awaited_topic a where a.name = d.topic limit 1) as t))
    order by g.id
    returning id
), wanted as not materialized (
    select g.id as event_id, g.at, g.topic, g.key, g.data, g.headers, m.subscription_id
    from given g join matched m using (topic)
), due as materialized (
    select pg_catalog.nextval('"pgqueue".job_id') as job_id, w.event_id, w.task, w.queue, w.priority, w.max_attempts, w.tags, w.history,
           w.headers || pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('$flow', w.flow, '$event', w.event_id)) as headers,
           case when w.data ? '$codec'::text
               then pg_catalog.jsonb_build_object('$event', w.whole || pg_catalog.jsonb_build_object('takes', w.takes, 'whole_as',
                                                                               w.whole_as))
               else case when w.whole_as is null then '{}' else pg_catalog.jsonb_build_object(w.whole_as, w.whole) end
                   || coalesce((select pg_catalog.jsonb_object_agg(d.key, d.value) from pg_catalog.jsonb_each(w.data) as d
                                where d.key = any(w.takes)), '{}') end as args,
           statement_timestamp() as run_at, (w.flow ->> 'lane'::text)::bigint as lane,
           statement_timestamp() + pg_catalog.make_interval(secs => w.ttl) as expires_at
    from (select w.event_id, w.topic, w.data, s.task, s.queue, s.priority, s.max_attempts, s.tags, s.history, s.takes,
                 s.whole_as, s.ttl, s.headers || coalesce(w.headers, '{}') as headers,
                 case when s.rules is not null then "pgqueue".event_flow(s.rules, w.key, w.data) end as flow,
                 pg_catalog.jsonb_build_object('id', w.event_id, 'topic', w.topic, 'key', w.key, 'at', w.at,
                                    'data', w.data) as whole
          from wanted w join "pgqueue".subscription s on s.id = any(array[w.subscription_id])
          order by w.event_id, s.id) as w
), inserted as (
    insert into "pgqueue".job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at, lane, state, waits_for)
    select job_id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, run_at, expires_at, lane,
           case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end
    from due order by job_id
), logged as (
    insert into "pgqueue".transition (job_id, to_state) select job_id, case when lane is null then 'pending' else 'blocked' end from due where history
    order by job_id
), workers_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', due.queue))
    from (select distinct queue from due where run_at <= statement_timestamp()) as due
    where exists (select from "pgqueue".worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
), waiters_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!signal')) from awaited where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select g.id, g.topic, g.at, d.jobs
from workers_notified cross join waiters_notified cross join given g
left join (select d.event_id, pg_catalog.json_agg(pg_catalog.json_build_array(d.job_id, d.task, d.queue) order by d.job_id) as jobs
           from due d group by d.event_id) as d on d.event_id = g.id
order by g.ord
