with freed as materialized (
    select f.name, f.freed
    from (select version from "pgqueue".limit_freed where name = %(bucket)s::text order by version desc limit 1) as s
    cross join lateral (
        select * from "pgqueue".limit_freed f
        where f.name = any(array[%(bucket)s::text]) and f.version >= s.version for update) as f
), held as materialized (
    select u.name, u.rule, u.taken - f.freed as running from freed f
    cross join lateral (
        select version from "pgqueue".limit_use where name = f.name order by version desc limit 1) as s
    cross join lateral (
        select * from "pgqueue".limit_use u where u.name = any(array[f.name]) and u.version >= s.version for update) as u
), full_bucket as materialized (
    select u.name from held u
        left join lateral (
            select r.*, case when r.rate_count is not null then coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end) end as burst,
                   case when r.rate_count is not null then (pg_catalog.ceil(1000000::float8 * r.rate_seconds / (r.rate_count - case when r.rate_strict then coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end) - 1 else 0 end
        )::float8) / 1000000::float8) end as step
            from "pgqueue".limit_rule r where r.name = u.rule limit 1) as r on true
        left join lateral (
            select * from "pgqueue".limit_key k
            where k.rule = u.rule and k.key = pg_catalog.substr(u.name, pg_catalog.char_length(u.rule) + 2) limit 1
        ) as k on true
    where coalesce(k.max_running, r.max_running) <= u.running
), newest as materialized (
    select j.id from "pgqueue".job_live j
    where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
    and j.priority::smallint = %(priority)s::smallint and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now() and j.lease = 0
    and case when j.lane < 0 then j.headers::jsonb -> '$flow'::text -> 'buckets'::text
        @> pg_catalog.jsonb_build_array(%(bucket)s::text) else true end
    order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) desc, j.id desc limit case when %(keep_newest)s::bool then 1 else 0 end
), behind as materialized (
    select j.id from full_bucket cross join lateral (
        select j.id, j.lease, j.run_at::timestamptz as run_at,
               j.headers::jsonb -> '$flow'::text -> 'buckets'::text @> pg_catalog.jsonb_build_array(%(bucket)s::text) as behind
        from "pgqueue".job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = %(queue)s::text and j.lane::bigint = %(lane)s::bigint
        and j.priority::smallint = %(priority)s::smallint and (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end) <= now()
        order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit (select %(at_most)s::int) for update skip locked
    ) as j
    where j.behind and j.lease = 0 and j.run_at <= now() and j.id not in (select id from newest)
), ended as (
    delete from "pgqueue".job_live j where j.id = any(array(select id from behind)) and (j.state = 'blocked') is true
    returning j.*, 'cancelled' as target, %(reason)s::text as reason
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, target, reason
    from ended where target = 'cancelled'
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, state, target, attempt, lease, reason from ended
), waiters_notified as (
    select pg_catalog.count(pg_catalog.pg_notify('pgqueue' || '.ended', w.job_id::text))
    from ended cross join lateral (select job_id from "pgqueue".waiter where job_id = ended.id limit 1) as w
    where pg_notification_queue_usage() < 0.5::float8
    and pg_catalog.current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
select id, task::text, queue::text from ended, waiters_notified
