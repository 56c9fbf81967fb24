select w.host, w.pid, extract(epoch from now() - j.claimed_at)::float8,
       extract(epoch from now() - w.heartbeat_at)::float8, w.lease_seconds, w.lost_at is not null, w.death
from "pgqueue".job_live j join "pgqueue".worker w on w.id = j.worker_id
where j.id = %(id)s::bigint and j.worker_id = %(worker)s::uuid
