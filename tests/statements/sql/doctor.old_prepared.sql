select p.gid, p.owner::text, p.prepared, pg_catalog.age(p.transaction) from pg_catalog.pg_prepared_xacts p
where p.database = current_database()
and p.prepared < clock_timestamp() - pg_catalog.make_interval(secs => %(seconds)s::float8)
order by p.prepared limit 20
