with g as materialized (
    select * from pg_catalog.jsonb_populate_recordset(null::"pgqueue".schedule, %(rows)s::jsonb)
), made as (
    insert into "pgqueue".schedule (name, app, declared, next_tick, task, args, cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at,
    jitter_seconds, queue, priority, max_attempts, tags, options, misfire, grace_seconds, overlap, max_running)
    select g.name, g.app, g.declared, g.next_tick, g.task, g.args, g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone,
    g.starts_at, g.ends_at, g.jitter_seconds, g.queue, g.priority, g.max_attempts, g.tags, g.options, g.misfire,
    g.grace_seconds, g.overlap, g.max_running
    from g on conflict (name) do nothing
), changed as (
    update "pgqueue".schedule s set (task, args, cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at,
    jitter_seconds, queue, priority, max_attempts, tags, options, misfire, grace_seconds, overlap, max_running) = (g.task, g.args, g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone,
    g.starts_at, g.ends_at, g.jitter_seconds, g.queue, g.priority, g.max_attempts, g.tags, g.options, g.misfire,
    g.grace_seconds, g.overlap, g.max_running),
        app = g.app, declared = g.declared, disabled_at = null, updated_at = now(), error = null,
        next_tick = case when s.disabled_at is null and s.next_tick is not null
                          and (s.cron, s.every_seconds, s.at, s.rrule, s.anchor, s.timezone, s.starts_at, s.ends_at)
                              is not distinct from
                              (g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone, g.starts_at, g.ends_at)
                         then s.next_tick else g.next_tick end
    from g where s.name = g.name and s.edited_at is null
    and (s.declared is distinct from g.declared or s.app is distinct from g.app or s.disabled_at is not null)
)
update "pgqueue".schedule s set app = g.app, declared = g.declared, disabled_at = null, updated_at = now(),
    replan_from = case when s.disabled_at is null then s.replan_from else clock_timestamp() end
from g where s.name = g.name and s.edited_at is not null
and (s.declared is distinct from g.declared or s.app is distinct from g.app or s.disabled_at is not null)
