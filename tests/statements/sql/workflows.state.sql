select w.state, w.root_id from "pgqueue".workflow w where w.id = %(id)s::bigint
