select r.rolname::text, d.datname::text
from pg_catalog.pg_db_role_setting s
left join pg_catalog.pg_roles r on r.oid = s.setrole
left join pg_catalog.pg_database d on d.oid = s.setdatabase
where 'synchronous_commit=off' = any(s.setconfig) and (d.datname is null or d.datname = current_database())
order by r.rolname, d.datname
