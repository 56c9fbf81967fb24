select (select true from "pgqueue".workflow w where w.state = 'running' and w.stop_reason is not null limit 1) is not null,
       (select true from "pgqueue".job_live j where j.state = 'blocked' and j.cancel_requested_at is not null limit 1)
           is not null,
       (select true from "pgqueue".workflow w where w.state <> 'running' and not w.settled limit 1) is not null,
       (select true from "pgqueue".workflow w where not w.settled limit 1) is not null,
       (select true from "pgqueue".dependency d where d.late limit 1) is not null
