select e.id, e.at, e.topic, e.key, e.data::text, pg_catalog.cardinality(e.delivered),
       array(select s.task from "pgqueue".subscription s where s.id = any(e.delivered) order by s.task)
from "pgqueue".published_event e where e.id = %(id)s
