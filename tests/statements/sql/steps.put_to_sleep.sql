with given as (
    select g.* from unnest(
        (select %(ids)s::bigint[]), (select %(leases)s::bigint[]),
        (select pg_catalog.string_to_array(%(times)s, ',', '')::timestamptz[])
    ) as g(id, lease, at)
), sleeper as (
    update "pgqueue".job_live j
    set run_at = case when j.signalled then clock_timestamp() else coalesce(g.at, '9000-01-01Z'::timestamptz) end,
        signalled = null, attempt = 0, expires_at = null
    from given g
    where j.id = any(array[g.id]) and j.lease = g.lease and j.state in ('pending', 'blocked')
    returning j.id, j.run_at::timestamptz <= clock_timestamp() as due
)
select id from sleeper where due
