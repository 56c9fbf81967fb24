update "pgqueue".workflow w set stop_reason = %(reason)s::text, stop_running = true
where w.id = %(id)s::bigint and w.state = 'running' returning w.id
