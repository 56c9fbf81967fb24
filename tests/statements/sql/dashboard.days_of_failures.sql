select n.task, (now() at time zone 'UTC')::date - (n.failed_at at time zone 'UTC')::date as ago, count(*)
from (select d.task::text as task, d.failed_at::timestamptz as failed_at from "pgqueue".dead_letter d
      order by d.failed_at desc limit %(most)s::int) as n
where n.failed_at > now() - interval '7 days' group by 1, 2
