select p.history, (now() at time zone 'UTC')::date - p.first_day, p.bytes
from "pgqueue".partition_status p
where not p.is_default and p.first_day > (now() at time zone 'UTC')::date - 7
and p.first_day <= (now() at time zone 'UTC')::date
