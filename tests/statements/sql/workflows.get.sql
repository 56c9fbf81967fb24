select w.id, w.name, w.state, w.on_failure, w.created_at, w.ended_at, w.jobs, w.waiting,
       w.running, w.failed, w.ended, w.stop_reason, w.sealed from "pgqueue".workflows w where w.id = %(id)s::bigint
