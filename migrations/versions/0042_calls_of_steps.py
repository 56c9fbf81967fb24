"""Calls: which jobs a task has called and waits for. Published events wake jobs that wait for one.

Revision ID: 0042
Revises: 0040
"""

from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

# As in migration 0039: the statements of pgqueue/queries/published/publish.py as they are in this release.
PUBLISH = r"""
create or replace function {s}.publish(
    topic text, data jsonb default '{{}}', key text default null, headers jsonb default '{{}}'
) returns bigint language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp as $publish$
#variable_conflict use_column
declare
    event bigint;
    named constant text := case when char_length(publish.key) > 200 or publish.key ~ E'[\\x01-\\x1f\\x7f]'
        then 'sha256:' || substr(encode(sha256(convert_to(publish.key, 'UTF8')), 'hex'), 1, 32)
        else publish.key end;
    words constant text[] := string_to_array(publish.topic, '.');
    anchors constant text[] := array['=' || publish.topic, '#'] || array(
        select a.anchor from generate_subscripts(words, 1) as i(n) cross join lateral (values
            ('^' || array_to_string(words[1:i.n], '.')), ('$' || array_to_string(words[i.n:], '.')),
            ('~' || words[i.n])) as a(anchor));
    problem constant text := case
        when publish.topic is null or char_length(publish.topic) > 255
        or publish.topic !~ '^[A-Za-z0-9_:/-]+([.][A-Za-z0-9_:/-]+){{0,31}}$'
            then format('topic %L cannot be used: give words of letters, digits or _ : / - with dots between them, '
                        'such as order.paid; at most 255 characters and 32 words', publish.topic)
        when coalesce(jsonb_typeof(publish.data), '') <> 'object'
            then format('data %L of event %s cannot be used: give an object', publish.data, publish.topic)
        when publish.data ?| array['$codec', '$event']
            then format('data of event %s cannot be used: the names $codec and $event are taken',
                        publish.topic)
        when coalesce(jsonb_typeof(publish.headers), '') <> 'object'
        or exists (select from jsonb_object_keys(publish.headers) as h(name) where h.name like '$%')
            then format('headers %L of event %s cannot be used: give an object; names that begin with $ '
                        'are taken', publish.headers, publish.topic)
        when publish.key = ''
            then format('an empty key of event %s cannot be used: give some text, or null for none', publish.topic)
        end;
begin
    if problem is not null then
        raise exception '%', problem using errcode = 'invalid_parameter_value';
    end if;
    with given as materialized (
        select nextval('{s}.event_id') as id, clock_timestamp() as at, publish.topic as topic, named as key,
               publish.data as data, nullif(publish.headers, '{{}}'::jsonb) as headers
    ), matched as materialized (
    select distinct a.topic, p.subscription_id
    from (select publish.topic, unnest(anchors)) as a(topic, anchor)
    cross join lateral (select p.* from {s}.subscription_pattern p where p.anchor = any(array[a.anchor]) offset 0) as p
    join {s}.subscription s on s.id = any(array[p.subscription_id])
        and s.disabled_at is null and p.pattern = any(s.patterns)
    where p.expression is null or '.' || a.topic ~ p.expression
), published as (
    insert into {s}.published_event (id, at, topic, key, data, headers, delivered)
    select g.id, g.at, g.topic, g.key, g.data, g.headers, coalesce(d.subscriptions, '{{}}'::int[])
    from given g left join (select m.topic, array_agg(m.subscription_id order by m.subscription_id) as subscriptions
                            from matched m group by m.topic) as d using (topic)
), awaited as (
    insert into {s}.awaited_event (name, key, data, at, published_id)
    select g.topic, g.key, g.data, g.at, g.id from given g
    where g.key is not null and g.topic = any(array(
        select t.name from (select distinct e.topic from given e) as d
        cross join lateral (select a.name from {s}.awaited_topic a where a.name = d.topic limit 1) as t))
    order by g.id
    returning id
), wanted as not materialized (
    select g.id as event_id, g.at, g.topic, g.key, g.data, g.headers, m.subscription_id
    from given g join matched m using (topic)
), due as materialized (
    select nextval('{s}.job_id') as job_id, w.event_id, w.task, w.queue, w.priority, w.max_attempts, w.tags, w.history,
           w.headers || jsonb_strip_nulls(jsonb_build_object('$flow', w.flow, '$event', w.event_id)) as headers,
           case when w.data ? '$codec'::text
               then jsonb_build_object('$event', w.whole || jsonb_build_object('takes', w.takes, 'whole_as',
                                                                               w.whole_as))
               else case when w.whole_as is null then '{{}}' else jsonb_build_object(w.whole_as, w.whole) end
                   || coalesce((select jsonb_object_agg(d.key, d.value) from jsonb_each(w.data) as d
                                where d.key = any(w.takes)), '{{}}') end as args,
           statement_timestamp() as run_at, (w.flow ->> 'lane'::text)::bigint as lane,
           statement_timestamp() + make_interval(secs => w.ttl) as expires_at
    from (select w.event_id, w.topic, w.data, s.task, s.queue, s.priority, s.max_attempts, s.tags, s.history, s.takes,
                 s.whole_as, s.ttl, s.headers || coalesce(w.headers, '{{}}') as headers,
                 case when s.rules is not null then {s}.event_flow(s.rules, w.key, w.data) end as flow,
                 jsonb_build_object('id', w.event_id, 'topic', w.topic, 'key', w.key, 'at', w.at,
                                    'data', w.data) as whole
          from wanted w join {s}.subscription s on s.id = any(array[w.subscription_id])
          order by w.event_id, s.id) as w
), inserted as (
    insert into {s}.job_live (id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, created_at,
                              expires_at, lane, state, waits_for)
    select job_id, task, queue, priority, args, max_attempts, run_at, tags, headers, history, run_at, expires_at, lane,
           case when lane is null then 'pending' else 'blocked' end, case when lane is not null then 'turn' end
    from due order by job_id
), logged as (
    insert into {s}.transition (job_id, to_state)
    select job_id, case when lane is null then 'pending' else 'blocked' end from due where history
    order by job_id
), workers_notified as (
    select count(pg_notify('{channel}', due.queue))
    from (select distinct queue from due where run_at <= statement_timestamp()) as due
    where exists (select from {s}.worker w where w.waiting and due.queue = any(w.queues))
    and pg_notification_queue_usage() < 0.5::float8
    and current_setting('pgqueue.notify', true) is distinct from 'off'::text
), waiters_notified as (
    select count(pg_notify('{channel}', '!signal')) from awaited
    where pg_notification_queue_usage() < 0.5::float8
    and current_setting('pgqueue.notify', true) is distinct from 'off'::text
)
    select g.id into event from given g, workers_notified, waiters_notified;
    return event;
end
$publish$"""

STATEMENTS = (
    """alter table {s}.step
    drop constraint step_kind_check,
    add constraint step_kind_check check (kind in ('value', 'sleep', 'signal', 'event', 'call')) not valid,
    drop constraint step_done,
    add constraint step_done check (done or kind in ('signal', 'event', 'call')) not valid""",
    # `number`: of the step that calls; a name may be recorded again after the step was forgotten. `place`: of its
    # result among those of the step, null where only its end matters. `seen`: whether its end was delivered.
    """create table {s}.call (
    child_id bigint primary key,
    job_id bigint not null,
    step text not null,
    number bigint not null,
    place integer check (place >= 0),
    ended boolean not null default false,
    seen boolean not null default false
)""",
    "create index call_step on {s}.call (number, place)",
    "create index call_open on {s}.call (number, child_id) where not ended",
    "create index call_unseen on {s}.call (child_id) where ended and not seen",
    # The jobs whose caller has ended otherwise than by success, and which a worker is to end. A letter, so that nobody
    # who ends a caller locks the row of a job that it has called.
    "create table {s}.unwanted_call (child_id bigint primary key)",
    # As in migration 0038. A job that ends otherwise than by success wants no call any more that has not ended; it
    # forgets that call, so that it calls anew when it is brought back.
    """create or replace function {s}.compensate(job bigint, ended_lease bigint, forgets boolean) returns bigint
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    first bigint;
begin
    if forgets then
        insert into {s}.unwanted_call (child_id)
        select c.child_id from {s}.step s join {s}.call c on c.number = s.number
        where s.job_id = job and s.kind = 'call' and not s.done and not c.ended order by c.child_id
        on conflict do nothing;
        if found then
            delete from {s}.step s where s.job_id = job and s.kind = 'call' and not s.done
            and exists (select from {s}.call c where c.number = s.number and not c.ended);
            if pg_notification_queue_usage() < 0.5
            and current_setting('pgqueue.notify', true) is distinct from 'off' then
                perform pg_notify('{channel}', '!signal');
            end if;
        end if;
    end if;
    perform from {s}.undo u where u.job_id = job and u.lease = ended_lease order by u.number for update;
    select min(s.number) into first from {s}.step s where s.job_id = job and s.undo is not null;
    if first is null then
        return null;
    end if;
    insert into {s}.undo (job_id, number, lease, step, call)
    select s.job_id, s.number, ended_lease, s.name, s.undo from {s}.step s where s.job_id = job and s.undo is not null;
    if forgets then
        delete from {s}.step s where s.job_id = job and s.number >= first;
    else
        update {s}.step s set undo = null where s.job_id = job and s.undo is not null;
    end if;
    return {s}.undo_next(job, ended_lease);
end
$$""",
    # The topics for which some job has waited by `ctx.wait_event`: whoever publishes one of them with a key tells those
    # who wait. `complete`: whether what was published before is there, too. It stays false until all transactions have
    # ended that may have published and not seen the row.
    """create table {s}.awaited_topic (
    name text primary key check (char_length(name) between 1 and 200),
    complete boolean not null default false,
    since timestamptz not null default clock_timestamp()
)""",
    "create index awaited_topic_incomplete on {s}.awaited_topic (name) where not complete",
    # The published event that an awaited one is a copy of.
    "alter table {s}.awaited_event add column published_id bigint",
    PUBLISH,
    # As in migration 0039. While a caller waits, what its calls have returned stays.
    """create or replace view {s}.old_partition as
select h.history, c.relname::text as partition, p.first, p.past, pg_relation_size(c.oid) as heap_bytes,
       pg_total_relation_size(c.oid) as bytes
from (values ('job_finished', '{s}.job_finished'::regclass), ('transition', '{s}.transition'::regclass),
             ('activity', '{s}.activity'::regclass), ('published_event', '{s}.published_event'::regclass))
     as h(history, parent)
join pg_inherits i on i.inhparent = h.parent
join pg_class c on c.oid = i.inhrelid
cross join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(_([0-9]{{8}}))?$') as named
cross join lateral (
    select to_date(named[1], 'YYYYMMDD')::timestamp at time zone 'UTC',
           coalesce(to_date(named[3], 'YYYYMMDD'), to_date(named[1], 'YYYYMMDD') + 1)::timestamp at time zone 'UTC'
) as p(first, past)
where named is not null and p.past <= now() - (
    select case when bool_and(r.value is not null) then max(r.value) end from {s}.retention r
    where r.name = 'activity' and h.history = 'activity'
    or r.name = 'events' and h.history = 'published_event'
    or r.name in ('succeeded', 'cancelled') and h.history in ('job_finished', 'transition'))
and (h.history <> 'job_finished' or not exists (
    select from {s}.workflow w where not w.settled and w.created_at < p.past + interval '1 day'
    union all
    select from {s}.call c join {s}.step t on t.job_id = c.job_id and t.name = c.step and t.number = c.number
    where not c.ended and not t.done and t.at < p.past + interval '1 day'))""",
    """create view {s}.call_status as
select c.job_id, c.step, c.place, c.child_id, c.ended from {s}.call c""",
    "comment on table {s}.call is 'The jobs that tasks have called by ctx.call and ctx.gather'",
    "comment on table {s}.unwanted_call is 'Called jobs whose caller has failed or was cancelled: a worker ends them'",
    "comment on column {s}.step_status.kind is 'value, sleep, signal, event or call'",
    "comment on table {s}.awaited_topic is 'The topics of events for which a job has ever waited'",
    "comment on column {s}.awaited_event.published_id is 'The published event that it is a copy of; null for none'",
    "comment on view {s}.call_status is 'The jobs that tasks have called and wait for'",
)
CALL_STATUS = {
    "job_id": "The job whose task called",
    "step": "The name of the step",
    "place": "The place of the result among those of the step; null where only the end matters",
    "child_id": "The job that was called",
    "ended": "Whether it has ended",
}


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    comments = [f"comment on column {{s}}.call_status.{column} is '{text}'" for column, text in CALL_STATUS.items()]
    for statement in (*STATEMENTS, *comments):
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
