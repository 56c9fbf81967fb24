with turn as materialized (
    select pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtext('pgqueue'), pg_catalog.hashtext('make partitions')) as mine
), rule as materialized (
    select r.name, r.queue, r.task, coalesce(r.value, interval '1000 years') as value,
           r.queue = '*' and r.task = '*' as general,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.queue, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as queues,
           pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(r.task, '!', '!!'), '%%', '!%%'), '_', '!_'), '*', '%%') as tasks
    from "pgqueue".retention r where r.name in ('succeeded', 'cancelled', 'failed')
), kind as materialized (
    select k.*, (
    select coalesce(pg_catalog.max(r.value) filter (where not r.general), pg_catalog.max(r.value)) from rule r
    where r.name = k.state and k.queue::text like r.queues escape '!'
    and k.task::text like r.tasks escape '!') as keep
    from (select f.state::text, f.queue::text, f.task::text, pg_catalog.max(f.finished_at) as newest,
                 pg_catalog.array_agg(f.workflow_id) filter (where f.workflow_id is not null) as workflows
          from "pgqueue".job_finished f where f.ctid >= %(start)s::tid and f.ctid < %(end)s::tid
          and f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz group by 1, 2, 3) as k
), named as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select pg_catalog.unnest(k.workflows) from kind k))
), over as materialized (
    select w.id from "pgqueue".workflow w where w.id = any(array(select id from named)) and w.settled
    and (select true from "pgqueue".job_live j where j.workflow_id = w.id limit 1) is null for share skip locked
), living as materialized (
    select id from named except select id from over
), old as materialized (
    select f.id, f.finished_at, f.created_at from "pgqueue".job_finished f
    join kind k on k.state = f.state and k.queue = f.queue::text and k.task = f.task::text
    where f.ctid >= %(start)s::tid and f.ctid < %(end)s::tid
          and f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz and f.finished_at < now() - k.keep and (select mine from turn)
    and (f.workflow_id is null or f.workflow_id not in (select id from living))
    and (select c.child_id from "pgqueue".call c
         join "pgqueue".step t on t.job_id = c.job_id and t.name = c.step and t.number = c.number and not t.done
         where c.child_id = f.id limit 1) is null
    for update of f skip locked
), gone as (
    delete from "pgqueue".job_finished f using old o
    where f.id = any(array[o.id]) and f.finished_at = o.finished_at
    and f.finished_at >= %(first)s::timestamptz and f.finished_at < %(past)s::timestamptz
), logged as (
    delete from "pgqueue".transition t using old o
    where t.job_id = any(array[o.id]) and t.at >= (select pg_catalog.min(o.created_at) from old o)
    and t.at < (select pg_catalog.max(o.finished_at) from old o) + interval '1 day'
), young as (
    select coalesce(pg_catalog.max(k.newest) >= now() - %(age)s::interval, false) as any from kind k
), noted as (
    insert into "pgqueue".pruned (relation, age, block, closed, rules)
    select %(name)s, %(age)s, case when young.any then %(from)s::bigint else %(to)s::bigint end, %(closed)s, %(rules)s
    from turn, young where turn.mine
    on conflict (relation, age) do update
    set block = excluded.block, closed = excluded.closed, rules = excluded.rules, at = clock_timestamp()
)
select (select count(*) from old), turn.mine, turn.mine and not young.any from turn, young
