select w.running, w.open, w.held, w.stopping, w.capped, coalesce(w.oldest_seconds, 0::float8),
       coalesce(w.unsettled_seconds, 0::float8)
from "pgqueue".workflow_load w
