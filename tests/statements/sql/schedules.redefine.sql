update "pgqueue".schedule s set (task, args, cron, every_seconds, at, rrule, anchor, timezone, starts_at, ends_at,
    jitter_seconds, queue, priority, max_attempts, tags, options, misfire, grace_seconds, overlap, max_running) = (g.task, g.args, g.cron, g.every_seconds, g.at, g.rrule, g.anchor, g.timezone,
    g.starts_at, g.ends_at, g.jitter_seconds, g.queue, g.priority, g.max_attempts, g.tags, g.options, g.misfire,
    g.grace_seconds, g.overlap, g.max_running),
    next_tick = g.next_tick, edited_at = g.edited_at, edited_by = g.edited_by, updated_at = now(),
    edit_asked = null, edit_error = null, error = null, replan_from = null,
    gap_from = case when %(keep_gap)s then s.gap_from end, gap_to = case when %(keep_gap)s then s.gap_to end,
    gap_by = case when %(keep_gap)s then s.gap_by end,
    paused_at = case when s.paused_at is not null and not %(keep_gap)s then clock_timestamp() else s.paused_at end
from pg_catalog.jsonb_populate_recordset(null::"pgqueue".schedule, %(rows)s::jsonb) as g where s.name = g.name
