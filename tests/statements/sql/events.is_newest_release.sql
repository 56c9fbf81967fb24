select not exists (
    select from "pgqueue".subscription_release o, "pgqueue".subscription_release mine
    where mine.id = %(id)s and o.app = mine.app and o.release <> mine.release
    and (o.since, o.release) > (mine.since, mine.release)
    and o.seen_at >= clock_timestamp() - pg_catalog.make_interval(secs => %(silence)s))
