with given as (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]),
        (select pg_catalog.string_to_array(%(times)s, ',', '')::timestamptz[])
    ) as g(id, lease, at)
), keep as materialized (
    select g.id, g.lease, b.name, j.home, f.version from given g
    cross join lateral (
        select j.headers::jsonb -> '$flow'::text -> 'buckets'::text as buckets, (j.headers::jsonb #>> '{$flow,lane}'::text[])::bigint as home
        from "pgqueue".job_live j where j.id = g.id and j.lease = g.lease and j.lane is not null limit 1) as j
    cross join lateral pg_catalog.jsonb_array_elements_text(j.buckets) as b(name)
    cross join lateral (
        select from "pgqueue".limit_rule r
        where r.name = pg_catalog.split_part(b.name, '/', 1) and r.kind = 'limit' and r.while_waiting
        and r.breaker_failures is null limit 1) as r
    cross join lateral (
        select f.version from "pgqueue".limit_freed f where f.name = b.name order by f.version desc limit 1) as f
    where (select true from "pgqueue".compat c where c.revision = 'while_waiting')
), apart as materialized (
    select k.id, case when k.home < 0 then k.home else
        ('x' || pg_catalog.substr(pg_catalog.md5(pg_catalog.concat_ws(E'\n', k.home, pg_catalog.string_agg(k.name, E'\n' order by k.name))), 1, 16)
        )::bit(64)::bigint & 9223372036854775807 end as lane
    from keep k group by k.id, k.home
), sleeper as (
    update "pgqueue".job_live j
    set run_at = case when j.signalled then clock_timestamp() else coalesce(g.at, '9000-01-01Z'::timestamptz) end,
        signalled = null, attempt = 0, expires_at = null, lane = coalesce((select a.lane from apart a where a.id = j.id), j.lane)
    from given g
    where j.id = any(array[g.id]) and j.lease = g.lease and j.state in ('pending', 'blocked')
    returning j.id, j.run_at::timestamptz <= clock_timestamp() as due
), taken_back as (
    update "pgqueue".limit_freed f set freed = f.freed - k.jobs, version = f.version + 1
    from (select k.name, k.version, count(*) as jobs from keep k where k.id in (select id from sleeper)
          group by k.name, k.version) as k
    where f.name = any(array[k.name]) and f.version >= k.version
), kept as (
    insert into "pgqueue".limit_hold (job_id, bucket, lease)
    select k.id, k.name, k.lease from keep k where k.id in (select id from sleeper) order by k.id, k.name
    on conflict (job_id, bucket) do update set lease = excluded.lease
)
select id from sleeper where due
