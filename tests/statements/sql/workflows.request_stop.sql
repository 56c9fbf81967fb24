with whole as materialized (
    select w.id from "pgqueue".workflow w where w.id = %(id)s::bigint
    union all
    select w.id from "pgqueue".workflow w where w.root_id = %(id)s::bigint and w.root_id <> w.id
), gates_held as materialized (
    select g.id from "pgqueue".gate g where g.workflow_id = any(array(select id from whole)) order by g.id for update
)
update "pgqueue".workflow w set stop_reason = %(reason)s::text, stop_running = true
where w.id = %(id)s::bigint and w.state = 'running' and (select count(*) from gates_held) >= 0 returning w.id
