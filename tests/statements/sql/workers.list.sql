select w.id, w.kind, w.host, w.pid, w.version, w.queues, w.slots,
       (select count(*) from "pgqueue".job_live j where j.worker_id = w.id)::int,
       case when w.lost_at is not null then 'lost'
            when w.heartbeat_at < now() - pg_catalog.make_interval(secs => w.lease_seconds) then 'silent'
            when w.stopping then 'stopping' else 'alive' end,
       extract(epoch from now() - w.heartbeat_at)::float8, w.started_at, w.death, w.duties
from "pgqueue".worker w order by w.kind, w.started_at
