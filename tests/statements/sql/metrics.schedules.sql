select s.name, case when s.state = 'active' then s.lag_seconds else 0::float8 end,
       case when s.last_outcome = 'fired' then s.last_tick end
from "pgqueue".schedule_status s order by s.lag_seconds desc nulls last, s.name limit %(most)s::int
