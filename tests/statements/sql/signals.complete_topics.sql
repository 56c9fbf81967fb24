with topic as materialized (
    select a.name from "pgqueue".awaited_topic a where a.name = any(%(names)s::text[]) and not a.complete
    order by a.name for update skip locked
), copied as (
    insert into "pgqueue".awaited_event (name, key, data, at, published_id)
    select e.topic, e.key, e.data, e.at, e.id from topic
    join "pgqueue".published_event e on e.topic = topic.name
    where e.key is not null and e.at > now() - interval '7 days'
    and not exists (select from "pgqueue".awaited_event a
                    where a.name = e.topic and a.key = e.key and a.published_id = e.id)
    order by e.id
    returning id
), completed as (
    update "pgqueue".awaited_topic a set complete = true where a.name = any(array(select name from topic)) returning a.name
)
select (select count(*) from completed), (select count(*) from copied)
