update "pgqueue".subscription s set disabled_at = clock_timestamp()
where s.id in (
    select d.id from "pgqueue".subscription d where d.app = %(app)s and d.disabled_at is null
    and not exists (select from "pgqueue".subscription_release r where r.app = d.app and d.task = any(r.names)
                    and r.seen_at >= clock_timestamp() - pg_catalog.make_interval(secs => %(silence)s))
    for update skip locked)
returning s.task
