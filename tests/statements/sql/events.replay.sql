with mine as materialized (
    select s.id, s.expressions from "pgqueue".subscription s where s.id = %(subscription)s
), first as materialized (
    select e.id from "pgqueue".published_event e
    where e.id > %(after)s::bigint and e.at >= %(since)s::timestamptz and e.at < %(to)s::timestamptz
    order by e.id limit 1
), looked as materialized (
    select e.id, e.at, e.topic from "pgqueue".published_event e
    where e.id >= (select f.id from first f) and e.id < (select f.id from first f) + %(at_most)s::bigint
    and e.at >= %(since)s::timestamptz and e.at < %(to)s::timestamptz
), locked as materialized (
    select e.id, e.at from looked l cross join mine m
    join "pgqueue".published_event e on e.id = any(array[l.id]) and e.at = l.at
    where '.' || l.topic ~ any(m.expressions) and not m.id = any(e.delivered)
    order by e.id for update of e
), wanted as (
    update "pgqueue".published_event e set delivered = pg_catalog.array_append(e.delivered, m.id)
    from locked l cross join mine m
    where e.id = any(array[l.id]) and e.at = l.at and not m.id = any(e.delivered)
    returning e.id as event_id, e.at, e.topic, e.key, e.data, e.headers, m.id as subscription_id
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
)
select (select f.id from first f) + %(at_most)s::bigint - 1,
       (select pg_catalog.json_agg(pg_catalog.json_build_array(d.job_id, d.task, d.queue) order by d.job_id) from due d)
from workers_notified
