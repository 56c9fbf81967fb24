update "pgqueue".schedule s set disabled_at = clock_timestamp(), updated_at = now()
where s.name in (
    select d.name from "pgqueue".schedule d where d.app = %(app)s and d.disabled_at is null
    and not exists (select from "pgqueue".schedule_release r where r.app = d.app and d.name = any(r.names)
                    and r.seen_at >= clock_timestamp() - pg_catalog.make_interval(secs => %(silence)s))
    for update skip locked)
returning s.name
