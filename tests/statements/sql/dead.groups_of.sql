select j.id, coalesce(j.fingerprint,
        case when j.reason = 'crashed' then 'crashed '::text || j.task::text
        else 'class '::text || coalesce(j.error ->> 'type'::text, j.reason) end) from "pgqueue".dead_letter j where j.id = any(%(ids)s::bigint[])
