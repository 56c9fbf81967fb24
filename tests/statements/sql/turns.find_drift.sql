with actual as (
    select b.name, count(*)::int as running
    from (select j.headers::jsonb as headers from "pgqueue".job_live j
          where j.worker_id is not null and j.lane is not null) as j
    cross join lateral pg_catalog.jsonb_array_elements_text(j.headers -> '$flow'::text -> 'buckets'::text) as b(name)
    group by b.name
)
select u.name from "pgqueue".limit_use u join "pgqueue".limit_freed f on f.name = u.name left join actual a on a.name = u.name
where u.taken - f.freed <> coalesce(a.running, 0) order by u.name collate "C" limit %(at_most)s::int
