with actual as (
    select held.name, pg_catalog.sum(held.jobs)::int as running from (
        select h.bucket as name, count(*) as jobs from "pgqueue".limit_hold h group by h.bucket
        union all
        select b.name, count(*)
        from (select j.headers::jsonb as headers from "pgqueue".job_live j
              where j.worker_id is not null and j.lane is not null) as j
        cross join lateral pg_catalog.jsonb_array_elements_text(j.headers -> '$flow'::text -> 'buckets'::text) as b(name)
        group by b.name) as held
    group by held.name
)
select u.name from "pgqueue".limit_use u join "pgqueue".limit_freed f on f.name = u.name left join actual a on a.name = u.name
where u.taken - f.freed <> coalesce(a.running, 0) order by u.name collate "C" limit %(at_most)s::int
