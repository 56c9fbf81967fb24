with held as materialized (
    select l.owner, l.token, l.holder, l.job_id, l.acquired_at, l.expires_at, l.waited_until from "pgqueue".named_lock l
    where l.key::text = %(key)s::text and l.expires_at::timestamptz > clock_timestamp()
    and l.owner::uuid <> %(owner)s::uuid
), turn as materialized (
    select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('lock ' || %(key)s::text))
    where not exists (select from held)
), taken as (
    insert into "pgqueue".named_lock as l (key, owner, token, holder, job_id, acquired_at, expires_at)
    select %(key)s::text, %(owner)s::uuid, pg_catalog.nextval('"pgqueue".lock_token'), %(holder)s::text,
        %(job_id)s::bigint, clock_timestamp(), clock_timestamp() + pg_catalog.make_interval(secs => %(ttl)s::float8)
    from turn
    on conflict (key) do update set owner = excluded.owner, token = excluded.token, holder = excluded.holder,
        job_id = excluded.job_id, acquired_at = excluded.acquired_at, waited_until = '-infinity',
        expires_at = clock_timestamp() + pg_catalog.make_interval(secs => %(ttl)s::float8)
    where l.expires_at <= clock_timestamp() or l.owner = excluded.owner
    returning l.token
), noted as (
    update "pgqueue".named_lock l set waited_until = clock_timestamp() + interval '1 minute'
    where l.key = any(array(
        select o.key from held join "pgqueue".named_lock o on o.key::text = %(key)s::text and o.owner::uuid = held.owner
        where %(waits)s::bool and held.waited_until < clock_timestamp() + interval '30 seconds'
        for update of o skip locked))
    returning l.key
), swept as (
    delete from "pgqueue".named_lock l where %(sweeps)s::bool and l.key = any(array(
        select o.key from "pgqueue".named_lock o
        where %(sweeps)s::bool and o.expires_at < clock_timestamp() - interval '1 hour' and o.key::text <> %(key)s::text
        limit 100 for update skip locked))
)
select taken.token, held.token, held.holder, held.job_id, held.acquired_at, held.expires_at,
    extract(epoch from held.expires_at - clock_timestamp())::float8,
    not %(waits)s::bool or held.waited_until >= clock_timestamp() + interval '30 seconds' or exists (select from noted)
from (values (1)) as one(n) left join taken on true left join held on true
