with tied as materialized (
    (select 'called' as kind, c.child_id as id, g.name as name from (
        select t.number, t.name from "pgqueue".step t
        where t.job_id = %(id)s::bigint and t.kind = 'call' order by t.number limit %(most)s::int) as g
     cross join lateral (
        select c.child_id, c.place from "pgqueue".call c where c.number = g.number order by c.place limit %(most)s::int) as c
     order by g.number, c.place, c.child_id limit %(most)s::int)
    union all
    select 'caller', c.job_id, c.step from "pgqueue".call c where c.child_id = %(id)s::bigint
    union all
    (select w.kind, w.id::bigint, null from "pgqueue".job v cross join lateral (
        values ('letter', v.headers::jsonb ->> '$dead_letter'::text),
               ('maker', v.headers::jsonb ->> '$by'::text)) as w(kind, id)
     where v.id = %(id)s::bigint and w.id ~ '^[0-9]{1,18}$'::text limit 2)
    union all
    (select 'made', m.id, null from (
        (select j.id from "pgqueue".job_live j where j.headers::jsonb ? '$by'::text and j.headers::jsonb -> '$by'::text = pg_catalog.to_jsonb(%(id)s::bigint)
         and j.id > %(after)s::bigint and not exists (select from "pgqueue".call c where c.child_id = j.id) order by j.id limit %(most)s::int + 1)
        union all
        (select j.id from "pgqueue".dead_letter j where j.headers::jsonb ? '$by'::text and j.headers::jsonb -> '$by'::text = pg_catalog.to_jsonb(%(id)s::bigint)
         and j.id > %(after)s::bigint and not exists (select from "pgqueue".call c where c.child_id = j.id) order by j.id limit %(most)s::int + 1)
        union all
        (select j.id from "pgqueue".job_finished j where j.headers::jsonb ? '$by'::text and j.headers::jsonb -> '$by'::text = pg_catalog.to_jsonb(%(id)s::bigint)
         and j.id > %(after)s::bigint and not exists (select from "pgqueue".call c where c.child_id = j.id) order by j.id limit %(most)s::int + 1)) as m
     order by m.id limit %(most)s::int + 1)
    union all
    (select 'traced', n.id, null from (
        (select j.id, j.headers::jsonb ->> 'traceparent'::text as trace from "pgqueue".job_live j
         where j.id > %(id)s::bigint and %(trace)s::text is not null order by j.id limit %(looked_at)s::int)
        union all
        (select d.id, d.headers::jsonb ->> 'traceparent'::text from "pgqueue".dead_letter d
         where d.id > %(id)s::bigint and %(trace)s::text is not null order by d.id limit %(looked_at)s::int)
        union all
        (select f.id, f.headers::jsonb ->> 'traceparent'::text from "pgqueue".job_finished f
         where f.id > %(id)s::bigint and %(trace)s::text is not null order by f.id limit %(looked_at)s::int)) as n
     where pg_catalog.split_part(n.trace, '-', 2) = %(trace)s::text order by n.id limit %(most)s::int)
)
select t.kind, t.id, t.name, j.task, j.queue, j.state, null::timestamptz
from tied t left join lateral (
    select v.task::text, v.queue::text, v.state::text from "pgqueue".job v where v.id = t.id limit 1) as j on true
union all
select 'key', k.job_id, null, null, null, null, k.expires_at::timestamptz from "pgqueue".idempotency_key k
where k.key = any((select array[%(key)s::text]::uuid[])::uuid[])
