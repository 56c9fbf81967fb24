select l.key, l.holder, l.job_id, l.token, l.acquired_at, l.expires_at, l.waited_for
from "pgqueue".lock_status l order by l.key
