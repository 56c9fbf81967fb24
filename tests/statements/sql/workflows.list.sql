select w.id, w.name, w.state, w.on_failure, w.created_at, w.ended_at, w.jobs, w.waiting,
       w.running, w.failed, w.ended, w.stop_reason, w.sealed from "pgqueue".workflows w
where w.id = any(array(
    select n.id from (
        select o.id, o.root_id, o.state, o.name from "pgqueue".workflow o
        where %(before)s::bigint is null or o.id < %(before)s::bigint order by o.id desc limit %(looked)s::int) as n
    where n.id = n.root_id and (%(state)s::text is null or n.state = %(state)s::text)
    and (%(name)s::text is null or n.name like %(name)s::text)
    order by n.id desc limit %(limit)s::int))
order by w.id desc
