with turn as materialized (
    select true as mine from pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions'))
), held as materialized (
    select w.id, w.root_id, w.state, w.settled, w.jobs, w.created_at from "pgqueue".workflow w
    where w.id = %(id)s::bigint and (select count(*) from turn) > 0 and w.state <> 'running' for update skip locked
)
select h.id, h.root_id, h.state, h.settled, h.jobs + coalesce((
           select pg_catalog.sum(i.jobs) from "pgqueue".workflow i where i.root_id = h.id and i.root_id <> i.id), 0::bigint)::int,
       h.created_at
from held h
