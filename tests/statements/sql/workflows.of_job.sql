select j.workflow_id from "pgqueue".job j where j.id = %(id)s::bigint
