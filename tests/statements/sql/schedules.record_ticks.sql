with moved as (
    update "pgqueue".schedule s set next_tick = m.next_tick,
        look_at = clock_timestamp() + pg_catalog.make_interval(secs => m.look_after), live_jobs = m.live_jobs::bigint[],
        gap_from = m.gap_from, gap_to = m.gap_to, gap_by = m.gap_by,
        paused_at = m.paused_at, paused_by = case when m.paused_at is not null then s.paused_by end,
        paused_until = m.paused_until, replan_from = null, error = m.error
    from unnest(%(names)s::text[], %(next_ticks)b::timestamptz[], %(look_afters)b::float8[], %(live_jobs)s::text[],
                %(gap_froms)b::timestamptz[], %(gap_tos)b::timestamptz[], %(gap_bys)b::text[],
                %(paused_ats)b::timestamptz[], %(paused_untils)b::timestamptz[], %(errors)b::text[])
         as m(name, next_tick, look_after, live_jobs, gap_from, gap_to, gap_by, paused_at, paused_until, error)
    where s.name = m.name
), given as materialized (
    select * from unnest(%(schedules)s::text[], %(ticks)s::timestamptz[], %(outcomes)s::text[], %(reasons)b::text[],
                         %(job_ids)b::bigint[], %(bys)b::text[]) as t(schedule, tick, outcome, reason, job_id, by)
), drained as (
    update "pgqueue".schedule_fire f set outcome = 'fired', job_id = t.job_id, at = clock_timestamp()
    from given t where t.outcome = 'fired' and f.schedule = t.schedule and f.tick = t.tick and f.outcome = 'queued'
    returning f.schedule, f.tick
)
insert into "pgqueue".schedule_fire (schedule, tick, outcome, reason, job_id, by)
select t.* from given t
where (t.outcome = 'fired' and not exists (select from drained d where d.schedule = t.schedule and d.tick = t.tick))
or (t.outcome <> 'fired'
    and not exists (select from "pgqueue".schedule_fire f where f.schedule = t.schedule and f.tick = t.tick))
