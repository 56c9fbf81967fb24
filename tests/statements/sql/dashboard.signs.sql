(select 'worker', w.host || ':'::text || w.pid::text, w.heartbeat_age_seconds, w.status::text
 from "pgqueue".worker_health w where w.status in ('lost', 'silent') order by w.id limit %(most)s::int)
union all
(select 'process', w.id::text, w.slots::float8, pg_catalog.concat_ws(' '::text, w.status, w.requested)
 from "pgqueue".worker_health w where w.status not in ('lost', 'silent') order by w.id limit %(most)s::int)
union all
(select 'schedule', c.name, c.lag_seconds, null
 from "pgqueue".schedule_status c where c.state = 'active' and c.lag_seconds > %(late)s::float8
 order by c.lag_seconds desc, c.name limit %(most)s::int)
union all
(select 'operation', o.id::text, (o.done + o.skipped)::float8, o.kind::text from "pgqueue".operation o
 where o.ended_at is null order by o.id limit %(most)s::int)
union all
(select 'dead', null, count(*)::float8, pg_catalog.max(newest.id)::text from (
    select d.id from "pgqueue".dead_letter d where d.failed_at > now() - interval '1 hour'
    order by d.failed_at desc limit %(most_dead)s::int) as newest)
union all
(select 'job', null, null, (select j.id::text from "pgqueue".job_live j order by j.id desc limit 1))
union all
(select 'activity', null, null, (select a.at::text from "pgqueue".activity a order by a.at desc limit 1))
