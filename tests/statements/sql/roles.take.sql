revoke select ("id", "queue") on table "pgqueue"."job_live" from "pg_monitor"
