grant select ("id", "queue") on table "pgqueue"."job_live" to "pg_monitor"
