select w.state, w.root_id = w.id from "pgqueue".workflow w where w.id = %(id)s::bigint
