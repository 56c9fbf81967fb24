select w.queue::text, w.for_jobs, w.for_jobs_capped, w.sleeping, w.waiting, w.asleep_capped from "pgqueue".waiting_load w
