select r.name, r.queue, r.task, r.value, r.set_by from "pgqueue".retention r
order by (r.queue, r.task) <> ('*', '*'), r.name, r.queue, r.task
