with registered as (
    insert into "pgqueue".waiter (job_id, expires_at)
    select distinct id, now() + interval '1 minute' from pg_catalog.unnest(%(ids)s::bigint[]) as g(id) order by id
    on conflict (job_id) do update set expires_at = excluded.expires_at
)
select pg_catalog.count(pg_catalog.pg_notify('pgqueue', '!wait')) where %(announce)s and pg_notification_queue_usage() < 0.5::float8
