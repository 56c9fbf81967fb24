with edited as (
    update "pgqueue".dead_letter d set args = %(args)s::jsonb, headers = case when %(flow)s::jsonb is null then d.headers::jsonb
             when %(flow)s::jsonb = 'null'::jsonb then d.headers::jsonb - '$flow'::text
             else d.headers::jsonb || pg_catalog.jsonb_build_object('$flow'::text, %(flow)s::jsonb) end
    from (select id, args from "pgqueue".dead_letter where id = %(id)s::bigint) as old
    where d.id = %(id)s::bigint returning d.id, d.attempt, d.lease, old.args as previous
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason, error)
    select id, 'failed', 'failed', attempt, lease, %(reason)s::text,
           pg_catalog.jsonb_build_object('previous_args', previous) from edited
)
select count(*) from edited
