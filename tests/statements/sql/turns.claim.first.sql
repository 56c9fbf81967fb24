with line as materialized (
    select 1 as ord, %(lane)s::bigint as lane, %(priority)s::smallint as priority, %(buckets)s::jsonb as buckets,
           %(most)s::int as most, %(run_at)s::timestamptz as run_at, %(id)s::bigint as id
    where not exists (select from "pgqueue".queue q where q.name = (select %(queue)s::text) and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
    and not exists (select from "pgqueue".worker w where w.id = (select %(worker)s::uuid) and w.lost_at is not null)
), part as materialized (
    select b.name from line l cross join lateral pg_catalog.jsonb_array_elements_text(l.buckets) as b(name)
), seen as materialized (
    select b.name, b.shared, u.version from (select name, count(*) > 1 as shared from part group by name) as b
    cross join lateral (
        select u.version from "pgqueue".limit_use u where u.name = b.name order by u.version desc limit 1) as u
    order by b.name collate "C"
), held as materialized (
    select s.version as seen, u.* from seen s
    cross join lateral (
        select * from "pgqueue".limit_use u where u.name = any(array[s.name]) and u.version >= s.version for update) as u
), instant as materialized (
    select clock_timestamp() as at from (select count(*) from held) as all_of_them
), bucket as materialized (
    select u.name, u.seen,
        case when r.scope = 'fleet' then r.step end as step,
        greatest(least(2147483647,
            coalesce(k.max_running, r.max_running) - u.running,
            case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) or k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) or u.closed_until > now() then 0 end,
            case when r.breaker_failures is not null and u.opened > 0 then 1 - u.running end,
            case when r.rate_count is not null and r.scope = 'fleet' then
                pg_catalog.floor(r.burst::float8 - extract(epoch from greatest(u.tat, instant.at) - instant.at)::float8 / r.step)::int
                end
        ), 0) as room
    from instant cross join (
        select h.*, greatest(least(h.taken - f.freed, 2147483647), 0)::int as running, f.closed_until, f.opened
        from held h cross join lateral (
            select f.* from "pgqueue".limit_freed f where f.name = h.name order by f.version desc limit 1) as f) as u
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
), free as materialized (
    select b.name, b.seen, b.step, least(b.room, greatest((select %(slots)s::int),
        case when b.step is null and b.room > 1 then b.room - b.room / 2 end)) as room
    from bucket b
), open as materialized (
    select l.*, case when b.whole then least(b.room, l.most) else 0 end as room
    from line l cross join (
        select count(*) = (select count(*) from part) as whole, pg_catalog.min(f.room) as room from free f) as b
), candidate as materialized (
    select o.ord, o.priority, c.id, c.at from open o
    cross join lateral (
        select j.id from "pgqueue".job_live j
        where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = (select %(queue)s::text) and j.lane::bigint = o.lane
        and j.priority::smallint = o.priority
        order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit 1
    ) as head
    cross join lateral (
        select j.id, j.run_at::timestamptz as at from "pgqueue".job_live j
        where j.id = head.id and j.state = 'blocked' and j.waits_for = 'turn' and j.run_at::timestamptz <= now()
        and (j.expires_at is null or j.expires_at > now() or j.attempt > 0) and coalesce(j.task::text <> all((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[]), true)
        and j.headers::jsonb -> '$flow'::text -> 'buckets'::text = o.buckets
        limit 1 for update skip locked
    ) as c
    where o.lane < 0 and o.room > 0
), picked as materialized (
    select c.id, 'blocked' as state from candidate c order by c.at, c.id limit (select %(room)s::int)
), used as (
    update "pgqueue".limit_use u
    set taken = u.taken + t.jobs, version = u.version + 1,
        tat = greatest(u.tat, (select at from instant))
            + pg_catalog.make_interval(secs => coalesce(t.jobs::float8 * t.step, 0::float8))
    from (select f.name, f.seen, f.step, k.jobs from free f cross join (select count(*)::int as jobs from picked) as k
          where k.jobs > 0) as t
    where u.name = any(array[t.name]) and u.version >= t.seen
), moved as (
    update "pgqueue".job_live j
    set state = 'running', waits_for = null, progress = null, attempt = j.attempt + 1,
        lease = least(j.lease, 4611686018427387903) + 1, worker_id = %(worker)s, claimed_at = now(),
        unique_key = case when j.unique_live then j.unique_key end
    where j.id = any(array(select id from picked)) and j.state = (select state from picked limit 1)
    returning j.id, j.task, j.queue, j.priority, j.args, j.tags, j.headers, j.run_at, j.created_at, j.attempt,
        j.max_attempts, j.lease, j.history, j.lane, j.ties
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, worker_id)
    select id, (select state from picked limit 1), 'running', attempt, lease, %(worker)s from moved where history
)
select id, task, queue, priority, args::text, case when pg_catalog.cardinality(tags) > 0 then tags end,
       nullif(headers::jsonb, '{}')::text, run_at, created_at, attempt, max_attempts, lease,
       date_part('epoch'::text, now() - run_at::timestamptz), lane, ties from moved
