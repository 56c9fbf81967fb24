with gone as (
    delete from "pgqueue".dead_letter where id = any(%(ids)s::bigint[]) returning *
), finished as (
    insert into "pgqueue".job_finished (id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, state, reason)
    select id, task, queue, priority, args, tags, headers, run_at, created_at, attempt, max_attempts,
        crash_count, lease, worker_id, claimed_at, 'cancelled', %(reason)s::text from gone
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'failed', 'cancelled', attempt, lease, %(reason)s::text from gone
), resumed as (
    update "pgqueue".limit_key c set paused_at = null, paused_until = null, paused_by = null, paused_why = null,
        updated_at = now(), updated_by = 'pgqueue'
    from (select g.id, k.rule, k.key from (select id, headers from gone where headers::jsonb ? '$flow'::text) as g
          cross join lateral (
        select pg_catalog.split_part(b.name, '/', 1) as rule, pg_catalog.substr(b.name, position('/' in b.name) + 1) as key
        from pg_catalog.jsonb_array_elements_text(headers::jsonb -> '$flow'::text -> 'buckets'::text) as b(name)) as k) as g
    where c.rule = any(array[g.rule]) and c.key = g.key and c.paused_by = 'pgqueue'
    and c.paused_why = pg_catalog.concat_ws(' ', 'dead letter', g.id)
)
select count(*) from gone
