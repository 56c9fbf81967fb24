select t.name, t.kind, t.waits, t.wait_key, t.wake_at, t.at,
       case when t.kind = 'call' then (select count(*) from "pgqueue".call c where c.number = t.number) end,
       case when t.kind = 'call' then array(
           select c.child_id from "pgqueue".call c where c.number = t.number and not c.ended order by c.child_id) end
from "pgqueue".step t
where t.job_id = %(id)s::bigint and (not t.done or t.kind = 'sleep' and t.wake_at > clock_timestamp())
order by t.number limit 20
