select a.application_name::text, count(*) from pg_catalog.pg_stat_activity a
where a.datname = current_database() and a.application_name like 'pgqueue%%'
group by a.application_name order by count(*) desc, a.application_name limit %(limit)s
