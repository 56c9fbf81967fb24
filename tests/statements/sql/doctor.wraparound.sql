select pg_catalog.age(d.datfrozenxid), pg_catalog.mxid_age(d.datminmxid), pg_catalog.current_setting('autovacuum_freeze_max_age')::int,
       pg_catalog.current_setting('autovacuum_multixact_freeze_max_age')::int
from pg_catalog.pg_database d where d.datname = current_database()
