select b.name, r.name is not null, coalesce(k.max_running, r.max_running), coalesce(u.running, 0),
       r.rate_count, r.rate_seconds, r.scope = 'worker', rate.step,
       greatest(extract(epoch from u.tat - pg_catalog.make_interval(secs => (rate.burst - 1)::float8 * rate.step) - now())::float8,
                0::float8),
       case when u.closed_until > now() then u.closed_until end, coalesce(u.opened, 0) > 0,
       case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) then r.paused_at end, case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) then r.paused_until end,
       case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) then r.paused_by end, case when r.paused_at is not null and (r.paused_until is null or r.paused_until > now()) then r.paused_why end,
       case when k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) then k.paused_at end, case when k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) then k.paused_until end,
       case when k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) then k.paused_by end, case when k.paused_at is not null and (k.paused_until is null or k.paused_until > now()) then k.paused_why end,
       array(select held.id from (
                 select j.id, j.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets
                 from "pgqueue".job_live j where j.worker_id is not null and u.running > 0
                 order by j.worker_id limit %(most_running)s::int) as held
             where held.buckets ? b.name limit %(most)s::int)
from pg_catalog.unnest(%(buckets)s::text[]) with ordinality as b(name, ord)
left join lateral (select u.* from (
            select t.*, greatest(least(t.taken - f.freed, 2147483647), 0)::int as running, f.closed_until, f.opened
            from (select t.* from "pgqueue".limit_use t where t.name = b.name order by t.version desc limit 1) as t
            cross join lateral (
                select f.* from "pgqueue".limit_freed f where f.name = t.name order by f.version desc limit 1) as f) as u) as u on true
left join "pgqueue".limit_rule r on r.name = pg_catalog.split_part(b.name, '/', 1)
left join "pgqueue".limit_key k on k.rule = pg_catalog.split_part(b.name, '/', 1)
    and k.key = pg_catalog.substr(b.name, pg_catalog.char_length(pg_catalog.split_part(b.name, '/', 1)) + 2)
left join lateral (
    select coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end) as burst, (pg_catalog.ceil(1000000::float8 * r.rate_seconds / (r.rate_count - case when r.rate_strict then coalesce(r.rate_burst,
        case when r.rate_strict then greatest(r.rate_count / 10, 1) else r.rate_count end) - 1 else 0 end
        )::float8) / 1000000::float8) as step where r.rate_count is not null and r.scope = 'fleet'
) as rate on true
order by b.ord
