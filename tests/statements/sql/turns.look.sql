select served.queue, lane.number, lane.priority,
       (case when first.kept is null then first.flow
             else first.flow || pg_catalog.jsonb_build_object('kept', first.kept) end)::text,
       first.run_at, first.id, first.due_in,
       free.room, free.opens_in, free.paced, free.policy, share.weight
from (
    select g.queue, g.after from unnest((select %(queues)s::text[]), (select %(after)s::bigint[])) as g(queue, after)
    where not exists (select from "pgqueue".queue q where q.name = g.queue and q.paused_at is not null and (q.paused_until is null or q.paused_until > now()))
) as served
cross join lateral (
    with recursive hop(number, priority, n) as (
        (select j.lane::bigint, j.priority::smallint, 1 from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.queue and j.lane::bigint > served.after
         order by j.lane, j.priority desc limit 1)
        union all
        select next.number, next.priority, hop.n + 1
        from hop cross join lateral (
            (select j.lane::bigint as number, j.priority::smallint as priority from "pgqueue".job_live j
             where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.queue and j.lane::bigint = hop.number
             and j.priority::smallint < hop.priority
             order by j.lane, j.priority desc limit 1)
            union all
            (select j.lane::bigint, j.priority::smallint from "pgqueue".job_live j
             where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.queue and j.lane::bigint > hop.number
             order by j.lane, j.priority desc limit 1)
            limit 1) as next
        where hop.n < %(at_most)s::int
    )
    select hop.number, hop.priority from hop
) as lane
cross join lateral (
    select w.flow, k.kept, w.run_at, w.id,
           case when w.runs then w.due_in else greatest(w.due_in, 10::float8) end as due_in
    from (
        (select j.headers::jsonb -> '$flow'::text as flow, j.run_at::timestamptz as run_at, j.id,
               j.lease,
               coalesce(j.task::text <> all((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[]), true) as runs,
               case when j.expires_at <= now() and j.attempt = 0 then 1::float8
                    else extract(epoch from j.run_at::timestamptz - clock_timestamp())::float8 end as due_in
         from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.queue and j.lane::bigint = lane.number
         and j.priority::smallint = lane.priority and ((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[] is null or lane.number < 0) = true
         order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit 1)
        union all
        (select p.* from (select j.headers::jsonb -> '$flow'::text as flow, j.run_at::timestamptz as run_at, j.id,
               j.lease,
               coalesce(j.task::text <> all((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[]), true) as runs,
               case when j.expires_at <= now() and j.attempt = 0 then 1::float8
                    else extract(epoch from j.run_at::timestamptz - clock_timestamp())::float8 end as due_in
         from "pgqueue".job_live j
         where j.state = 'blocked' and j.waits_for = 'turn' and j.queue::text = served.queue and j.lane::bigint = lane.number
         and j.priority::smallint = lane.priority and ((select pg_catalog.array_agg(c.task) from "pgqueue".task_control c where c.paused_at is not null and (c.paused_until is null or c.paused_until > now()))::text[] is null or lane.number < 0) = false
         order by (case when j.lane < 0 then '-infinity'::timestamptz else j.run_at end), j.id limit 100) as p order by p.runs desc, p.run_at, p.id limit 1)
    ) as w cross join lateral (select case when (select true from "pgqueue".compat c where c.revision = 'while_waiting') then (
        select pg_catalog.jsonb_agg(h.bucket order by h.bucket) from "pgqueue".limit_hold h
        where h.job_id = w.id and h.lease = w.lease) end as kept) as k
) as first
cross join lateral (
    select case when pg_catalog.bool_and(b.name is not null) is false then null else coalesce(pg_catalog.min(b.room), 2147483647) end as room,
           pg_catalog.max(b.opens_in) as opens_in, pg_catalog.jsonb_agg(b.pace) filter (where b.pace is not null)::text as paced,
           pg_catalog.max(b.policy) as policy
    from pg_catalog.jsonb_array_elements_text(first.flow -> 'buckets'::text) as part(name)
    left join lateral (
        select u.name, c.room, case when not pg_catalog.isfinite(c.opens_at) then 'infinity'::float8
            else extract(epoch from c.opens_at - clock_timestamp())::float8 end as opens_in,
            case when (first.kept ? u.name) is not true then c.pace end as pace,
            case when r.on_full <> 'wait' and coalesce(k.max_running, r.max_running) <= u.running
                 then pg_catalog.concat_ws(' ', r.on_full, u.name) end as policy
        from (select c.name, c.rule, c.closed_until, c.opened,
                     case when (first.kept ? c.name) is not true then c.running end as running,
                     case when first.kept ? c.name then '-infinity' else c.tat end as tat from (
            select t.*, greatest(least(t.taken - f.freed, 2147483647), 0)::int as running, f.closed_until, f.opened
            from (select t.* from "pgqueue".limit_use t where t.name = part.name order by t.version desc limit 1) as t
            cross join lateral (
                select f.* from "pgqueue".limit_freed f where f.name = t.name order by f.version desc limit 1) as f) as c) as u
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
        cross join lateral (select
        case when r.scope = 'fleet' then r.step end as step,
        greatest(least(2147483647,
            coalesce(k.max_running, r.max_running) - u.running,
            case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) or k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) or u.closed_until > now() then 0 end,
            case when r.breaker_failures is not null and u.opened > 0 then 1 - u.running end,
            case when r.rate_count is not null and r.scope = 'fleet' then
                pg_catalog.floor(r.burst::float8 - extract(epoch from greatest(u.tat, now()) - now())::float8 / r.step)::int
                end
        ), 0) as room,
        greatest(
            case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) then coalesce(r.paused_until, 'infinity') end,
            case when k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) then coalesce(k.paused_until, 'infinity') end,
            case when u.closed_until > now() then u.closed_until end,
            case when r.rate_count is not null and r.scope = 'fleet'
                      and u.tat > now() + pg_catalog.make_interval(secs => (r.burst - 1)::float8 * r.step)
                 then u.tat - pg_catalog.make_interval(secs => (r.burst - 1)::float8 * r.step) end,
            case when coalesce(k.max_running, r.max_running) <= u.running
                      or r.breaker_failures is not null and u.opened > 0 and u.running > 0
                 then 'infinity'::timestamptz end
        ) as opens_at,
        case when r.rate_count is not null and r.scope = 'worker'
             then pg_catalog.jsonb_build_array(u.name, r.burst, r.step) end as pace) as c
    ) as b on true
) as free
left join lateral (
    select k.weight::float8 as weight from "pgqueue".limit_key k
    where k.rule = pg_catalog.split_part(first.flow ->> 'share'::text, '/', 1)
    and k.key = pg_catalog.substr(first.flow ->> 'share'::text, position('/' in first.flow ->> 'share'::text) + 1) limit 1
) as share on true
