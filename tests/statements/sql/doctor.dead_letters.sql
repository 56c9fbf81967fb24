select (select count(*) from (select from "pgqueue".dead_letter order by failed_at desc limit %(most)s::int + 1) as newest),
       (select count(*) from (select from "pgqueue".dead_letter where failed_at > now() - interval '1 hour'
                              order by failed_at desc limit %(most)s::int + 1) as newest)
