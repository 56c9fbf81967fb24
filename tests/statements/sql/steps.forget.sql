with first as materialized (
    select coalesce(pg_catalog.min(t.number) filter (where %(name)s::text is null or t.name = %(name)s::text),
                    9223372036854775807::bigint) as number
    from "pgqueue".step t where t.job_id = %(id)s::bigint
), gone as (
    delete from "pgqueue".step t using first where t.job_id = %(id)s::bigint and t.number >= first.number returning 1
)
select count(*) from gone
