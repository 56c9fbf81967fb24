with moved as (
    update "pgqueue".schedule s set next_tick = m.next_tick,
        look_at = clock_timestamp() + make_interval(secs => m.look_after), live_jobs = m.live_jobs::bigint[],
        gap_from = m.gap_from, gap_to = m.gap_to, gap_by = m.gap_by,
        paused_at = m.paused_at, paused_by = case when m.paused_at is not null then s.paused_by end,
        paused_until = m.paused_until, replan_from = null, error = m.error
    from unnest(%(names)s::text[], %(next_ticks)s::timestamptz[], %(look_afters)s::float8[], %(live_jobs)s::text[],
                %(gap_froms)s::timestamptz[], %(gap_tos)s::timestamptz[], %(gap_bys)s::text[],
                %(paused_ats)s::timestamptz[], %(paused_untils)s::timestamptz[], %(errors)s::text[])
         as m(name, next_tick, look_after, live_jobs, gap_from, gap_to, gap_by, paused_at, paused_until, error)
    where s.name = m.name
), given as materialized (
    select * from unnest(%(schedules)s::text[], %(ticks)s::timestamptz[], %(outcomes)s::text[], %(reasons)s::text[],
                         %(job_ids)s::bigint[], %(bys)s::text[]) as t(schedule, tick, outcome, reason, job_id, by)
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
