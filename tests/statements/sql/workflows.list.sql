select w.id, w.name, w.state, w.on_failure, w.created_at, w.ended_at, w.jobs, w.waiting,
       w.running, w.failed, w.ended, w.stop_reason, w.sealed from "pgqueue".workflows w
where (%(before)s::bigint is null or w.id < %(before)s::bigint)
and (%(state)s::text is null or w.state = %(state)s::text)
order by w.id desc limit %(limit)s::int
