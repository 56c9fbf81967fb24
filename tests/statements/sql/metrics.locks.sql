select count(*) filter (where l.expires_at > clock_timestamp()),
       count(*) filter (where l.expires_at > clock_timestamp() and l.waited_until > clock_timestamp()),
       coalesce(count(*) > %(most)s::int, false)
from (select n.expires_at, n.waited_until from "pgqueue".named_lock n limit %(most)s::int + 1) as l
