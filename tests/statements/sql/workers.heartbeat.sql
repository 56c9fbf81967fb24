update "pgqueue".worker set heartbeat_at = clock_timestamp(), duties = %(duties)s::jsonb
where id = %(id)s and lost_at is null returning true
