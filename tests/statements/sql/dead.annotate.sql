with annotated as (
    update "pgqueue".dead_letter d
    set headers = d.headers::jsonb || pg_catalog.jsonb_build_object('$notes'::text, (
        select coalesce(pg_catalog.jsonb_agg(newest.note order by newest.ord), '[]'::jsonb) from (
            select note, ord from pg_catalog.jsonb_array_elements(
                case when pg_catalog.jsonb_typeof(d.headers::jsonb -> '$notes'::text) = 'array'
                     then d.headers::jsonb -> '$notes'::text else '[]' end) with ordinality as old(note, ord)
            order by ord desc limit %(most)s::int - 1) as newest
        ) || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
            'at'::text, clock_timestamp(), 'by'::text, %(by)s::text, 'text'::text, %(text)s::text)))
    where d.id = %(id)s::bigint returning d.id, d.attempt, d.lease
), logged as (
    insert into "pgqueue".transition (job_id, from_state, to_state, attempt, lease, reason)
    select id, 'failed', 'failed', attempt, lease, %(reason)s::text from annotated
)
select count(*) from annotated
