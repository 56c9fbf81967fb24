with mail as materialized (
    select g.id, g.job_id, g.name from "pgqueue".signal g where not g.seen
    order by g.id limit %(at_most)s::int for update skip locked
), news as materialized (
    select e.id, e.name, e.key from "pgqueue".awaited_event e where not e.seen
    order by e.id limit %(at_most)s::int for update skip locked
), over as materialized (
    select c.child_id, c.job_id, c.step, c.number from "pgqueue".call c where c.ended and not c.seen
    order by c.child_id limit %(at_most)s::int for update skip locked
), wait as materialized (
    select m.id as letter, t.job_id from mail m
    cross join lateral (select j.id, j.state, j.signalled, j.attempt, j.run_at from "pgqueue".job_live j
                        where j.id = m.job_id limit 1) as j
    cross join lateral (select t.job_id from "pgqueue".step t where t.job_id = m.job_id and t.kind = 'signal' and not t.done
                        and t.waits = m.name limit 1) as t
    where case when j.state = 'running' then j.signalled is not true
          else j.attempt = 0 and j.run_at::timestamptz > now() end
    union all
    select n.id, t.id from news n cross join lateral (
        select j.id from "pgqueue".step t
        cross join lateral (select j.id, j.state, j.signalled, j.attempt, j.run_at from "pgqueue".job_live j
                            where j.id = t.job_id limit 1) as j
        where t.kind = 'event' and not t.done and t.waits = n.name and t.wait_key = n.key and case when j.state = 'running' then j.signalled is not true
          else j.attempt = 0 and j.run_at::timestamptz > now() end
        limit %(at_most)s::int + 1) as t
    union all
    select -o.child_id, t.job_id from over o
    cross join lateral (select j.id, j.state, j.signalled, j.attempt, j.run_at from "pgqueue".job_live j
                        where j.id = o.job_id limit 1) as j
    cross join lateral (select t.job_id from "pgqueue".step t where t.job_id = o.job_id and t.name = o.step
                        and t.number = o.number and not t.done limit 1) as t
    where case when j.state = 'running' then j.signalled is not true
          else j.attempt = 0 and j.run_at::timestamptz > now() end and (select c.child_id from "pgqueue".call c where c.number = o.number and not c.ended limit 1) is null
), locked as materialized (
    select j.id from "pgqueue".job_live j where j.id = any(array(select job_id from wait))
    order by j.id limit %(at_most)s::int for update skip locked
), woken as (
    update "pgqueue".job_live j
    set signalled = case when j.state = 'running' then true else j.signalled end,
        run_at = case when j.state = 'running' or j.attempt > 0 then j.run_at
                      else least(j.run_at::timestamptz, clock_timestamp()) end
    where j.id = any(array(select id from locked))
    returning j.queue::text, j.state = 'pending' as due, j.state = 'blocked' as in_turn
), again as materialized (
    select w.letter from wait w where w.job_id not in (select id from locked)
), seen as (
    update "pgqueue".signal g set seen = true
    where g.id = any(array(select m.id from mail m where m.id not in (select letter from again)))
), seen_events as (
    update "pgqueue".awaited_event e set seen = true
    where e.id = any(array(select n.id from news n where n.id not in (select letter from again)))
), seen_calls as (
    update "pgqueue".call c set seen = true
    where c.child_id = any(array(select o.child_id from over o where -o.child_id not in (select letter from again)))
), notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue', q.queue)) from (select distinct w.queue from woken w where w.due) as q
    where exists (select from "pgqueue".worker w where w.waiting and q.queue = any(w.queues)) and pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select (select count(*) from woken where due or in_turn),
       greatest((select count(*) from mail), (select count(*) from news), (select count(*) from over)),
       (select count(*) from again), (select u.child_id from "pgqueue".unwanted_call u limit 1) is not null,
       (select a.name from "pgqueue".awaited_topic a where not a.complete limit 1) is not null,
       (select count from notified)
