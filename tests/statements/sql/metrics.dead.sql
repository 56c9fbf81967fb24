select d.queue, d.task, d.jobs, d.known from "pgqueue".dead_load d
