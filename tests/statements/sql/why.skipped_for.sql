with recursive since as materialized (
    select w.created_at - interval '1 day' as at from "pgqueue".workflow w where w.id = %(workflow)s::bigint
), up(depth, id, name, state, reason, runs_after, queue) as (
    select 0, %(id)s::bigint, null::text, null::text, 'skipped'::text, null::text, null::text
    union all
    select up.depth + 1, unmet.id, unmet.name, unmet.state, unmet.reason, unmet.runs_after, unmet.queue
    from up cross join lateral (
        select parent.*, e.runs_after
        from (select d.parent_id, d.runs_after from "pgqueue".dependency d
              where d.child_id = any(array[up.id]) order by d.child_id limit %(most)s::int) as e
        cross join lateral (
            select d.id, d.task::text as name, 'failed'::text as state, d.reason, d.queue::text as queue
            from "pgqueue".dead_letter d where d.id = any(array[e.parent_id])
            union all
            select f.id, f.task::text, f.state::text, f.reason, f.queue::text from "pgqueue".job_finished f
            where f.id = any(array[e.parent_id]) and f.finished_at >= (select at from since)
            union all
            select w.id, w.name, w.state::text, w.stop_reason, null from "pgqueue".workflow w
            where w.id = any(array[e.parent_id]) and w.state <> 'running'
        ) as parent
        where e.runs_after <> 'e' and not (e.runs_after = 's' and parent.state = 'succeeded'
            or e.runs_after = 'f' and parent.state = 'failed')
        order by (parent.reason = 'skipped') is true, parent.id limit 1
    ) as unmet
    where up.reason = 'skipped' and up.depth < %(deep)s::int
)
select up.id, up.name, up.state, up.reason, up.runs_after, up.queue from up where up.depth > 0 order by up.depth
