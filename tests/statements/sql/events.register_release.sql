with dead as (
    delete from "pgqueue".subscription_release where seen_at < clock_timestamp() - pg_catalog.make_interval(secs => %(silence)s)
    and id <> %(id)s
)
insert into "pgqueue".subscription_release as r (id, app, release, names, since)
values (%(id)s, %(app)s, %(release)s, %(names)s::text[], coalesce(%(since)s,
    (select pg_catalog.min(o.since) from "pgqueue".subscription_release o where o.app = %(app)s and o.release = %(release)s
     and o.seen_at >= clock_timestamp() - pg_catalog.make_interval(secs => %(silence)s)), clock_timestamp()))
on conflict (id) do update set seen_at = clock_timestamp() returning r.since
