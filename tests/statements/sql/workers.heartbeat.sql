update "pgqueue".worker set heartbeat_at = clock_timestamp(), duties = %(duties)s::jsonb, rss_bytes = %(rss_bytes)s,
    quiet_at = case when %(quiet)s then coalesce(quiet_at, clock_timestamp()) end
where id = %(id)s and lost_at is null returning requested, requested_at, requested_by
