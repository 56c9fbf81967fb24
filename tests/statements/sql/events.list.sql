select e.id, e.at, e.topic, e.key, e.data::text, pg_catalog.cardinality(e.delivered)
from (select e.id, e.at, e.topic, e.key, e.data, e.delivered from "pgqueue".published_event e
      where (%(before)s::bigint is null or e.id < %(before)s::bigint) and e.at >= %(since)s::timestamptz
      order by e.id desc limit %(looked)s::int) as e
where (%(expression)s::text is null or '.' || e.topic ~ %(expression)s::text)
and (%(key)s::text is null or e.key = %(key)s::text)
order by e.id desc limit %(limit)s
