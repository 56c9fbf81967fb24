insert into "pgqueue".schedule (name, next_tick, edited_at, edited_by, task, args, cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at,
    jitter_seconds, queue, priority, max_attempts, tags, options, misfire, grace_seconds, overlap, max_running)
select g.name, g.next_tick, clock_timestamp(), g.edited_by, g.task, g.args, g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone,
    g.starts_at, g.ends_at, g.jitter_seconds, g.queue, g.priority, g.max_attempts, g.tags, g.options, g.misfire,
    g.grace_seconds, g.overlap, g.max_running
from pg_catalog.jsonb_populate_recordset(null::"pgqueue".schedule, %(rows)s::jsonb) as g
on conflict (name) do nothing returning true
