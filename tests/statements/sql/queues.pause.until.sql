insert into "pgqueue".queue as q (name, paused_at, paused_until, paused_by, paused_reason, updated_at, updated_by)
select g.name, clock_timestamp(), e.until, %(by)s::text, %(reason)s::text, clock_timestamp(), %(by)s::text
from pg_catalog.unnest(%(queues)s::text[]) as g(name),
     (select coalesce(%(until)s::timestamptz, clock_timestamp() + pg_catalog.make_interval(secs => %(seconds)s::float8)) as until)
     as e
where e.until is null or e.until > clock_timestamp() order by g.name
on conflict (name) do update set
    paused_at = case when q.paused_at is not null and (q.paused_until is null or q.paused_until > now()) then q.paused_at else excluded.paused_at end,
    paused_until = excluded.paused_until, paused_by = excluded.paused_by, paused_reason = excluded.paused_reason,
    updated_at = excluded.updated_at, updated_by = excluded.updated_by
returning q.name
