"""Published events, the subscriptions of tasks to them, and publishing from SQL.

Revision ID: 0039
Revises: 0038
"""

from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

# The flow of a job that an event makes, as the function `enqueue` (migration 0033) and pgqueue.jobs.flow make it.
# `rules`: an array of objects with kind (limit, order or share), rule, and the field of the data that is its key
# (key_of): `$key` is the key of the event.
FLOW = r"""
create function {s}.event_flow(rules jsonb, key text, data jsonb) returns jsonb language sql immutable parallel safe
set search_path = pg_catalog, pg_temp as $flow$
    select jsonb_strip_nulls(jsonb_build_object('lane', case when b.ranked is null then h.turn else -1 - h.turn end,
                                                'buckets', b.buckets, 'order', b.ranked, 'share', b.share))
    from (select max(k.bucket) filter (where k.kind = 'order') as ranked,
                 max(k.bucket) filter (where k.kind = 'share') as share,
                 coalesce(array_agg(distinct k.bucket order by k.bucket) filter (where k.kind <> 'share'), '{{}}')
                     as buckets
          from (select r.kind, (r.rule || coalesce('/' || case
                    when char_length(t.text) > 200 or t.text ~ E'[\\x01-\\x1f\\x7f]'
                        then 'sha256:' || substr(encode(sha256(convert_to(t.text, 'UTF8')), 'hex'), 1, 32)
                    else t.text end, '')) collate "C" as bucket
                from jsonb_to_recordset(rules) as r(kind text, rule text, key_of text)
                cross join lateral (select nullif(case when r.key_of = '$key' then event_flow.key
                    when jsonb_typeof(event_flow.data -> r.key_of) in ('string', 'number', 'boolean')
                        then event_flow.data ->> r.key_of end, '') as text) as t) as k) as b
    cross join lateral (select (('x' || substr(md5(convert_to(coalesce(b.ranked, concat_ws(E'\n', '',
        coalesce(b.share, ''), case when cardinality(b.buckets) > 0 then array_to_string(b.buckets, E'\n') end)),
        'UTF8')), 1, 16))::bit(64) >> 1)::bigint as turn) as h
$flow$"""

# The statements of pgqueue/queries/published/publish.py as they are in this release.
PUBLISH = r"""
create function {s}.publish(
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
)
    select g.id into event from given g, workers_notified;
    return event;
end
$publish$"""

STATEMENTS = (
    "create sequence {s}.event_id as bigint",
    # `delivered`: the subscriptions that have got it, so that a replay knows; a job may be pruned before its event.
    """create table {s}.published_event (
    id bigint not null,
    at timestamptz not null default clock_timestamp(),
    topic text not null check (char_length(topic) between 1 and 255),
    key text check (char_length(key) between 1 and 200),
    data jsonb not null,
    headers jsonb,
    delivered integer[] not null default '{{}}',
    primary key (id, at)
) partition by range (at)""",
    "create table {s}.published_event_default partition of {s}.published_event default",
    # What a job of the task has when an event makes it. A row stays when it is disabled: it knows what it has got.
    """create table {s}.subscription (
    id integer primary key generated by default as identity,
    task text not null unique check (char_length(task) between 1 and 200),
    patterns text[] not null,
    expressions text[] not null,
    queue text not null check (char_length(queue) between 1 and 100),
    priority smallint not null check (priority between -100 and 100),
    max_attempts integer not null check (max_attempts >= 1),
    tags text[] not null,
    headers jsonb not null,
    history boolean not null,
    ttl double precision check (ttl > 0),
    takes text[] not null,
    whole_as text,
    rules jsonb,
    app text not null default '',
    declared jsonb not null,
    declared_at timestamptz not null default clock_timestamp(),
    disabled_at timestamptz,
    disabled_by text
)""",
    """create table {s}.subscription_pattern (
    anchor text collate "C" not null,
    subscription_id integer not null references {s}.subscription on delete cascade,
    pattern text not null,
    expression text,
    primary key (anchor, subscription_id, pattern)
)""",
    "create index subscription_pattern_subscription on {s}.subscription_pattern (subscription_id)",
    # As `schedule_release`, of the processes that declare subscriptions.
    """create table {s}.subscription_release (
    id uuid primary key,
    app text not null,
    release text not null,
    names text[] not null,
    since timestamptz not null,
    seen_at timestamptz not null default clock_timestamp()
)""",
    FLOW,
    PUBLISH,
    """create view {s}.event_status as
select e.id, e.at, e.topic, e.key, cardinality(e.delivered) as subscribers from {s}.published_event e""",
    """create view {s}.subscription_status as
select s.id, s.task, s.patterns, s.queue, s.priority, s.max_attempts, s.takes, s.whole_as, s.app, s.declared_at,
       s.disabled_at, s.disabled_by
from {s}.subscription s""",
    # As in migration 0019, with events.
    """alter table {s}.setting drop constraint setting_name_check,
add constraint setting_name check (name !~ '^retention[.]' or name in (
    'retention.succeeded', 'retention.cancelled', 'retention.failed', 'retention.history', 'retention.ticks',
    'retention.operations', 'retention.activity', 'retention.events'))""",
    """create or replace view {s}.retention as
select distinct on (g.name, g.queue, g.task) g.name, g.queue, g.task, g.value, g.set_by
from (select d.name, '*'::text as queue, '*'::text as task, d.value, 'default'::text as set_by, 3 as place
      from (values ('succeeded', interval '7 days'), ('cancelled', interval '7 days'), ('failed', null),
                   ('history', interval '90 days'), ('ticks', interval '90 days'), ('operations', interval '90 days'),
                   ('activity', interval '30 days'), ('events', interval '7 days')) as d(name, value)
      union all
      select substr(s.name, 11), s.queue, s.task, s.value,
             case when s.source = 'operator' then coalesce(s.set_by, 'operator') else rtrim('code of ' || s.app) end,
             case when s.source = 'operator' then 1 else 2 end
      from {s}.setting s where s.name like 'retention.%') as g
order by g.name, g.queue, g.task, g.place""",
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
    select from {s}.workflow w where not w.settled and w.created_at < p.past + interval '1 day'))""",
    # As in migration 0021, with the partitions of events.
    """create or replace function {s}.maintain() returns text language plpgsql security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '500ms' as $$
declare
    history record;
    day date;
    rest text;
    part text;
    bounds text;
    move text;
    made integer := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('{channel}'), hashtext('make partitions')) then
        return null;
    end if;
    for history in select * from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'),
                                  ('published_event', 'at'))
                   as h(name, key) loop
        rest := format('%I.%I', '{channel}', history.name || '_default');
        continue when pg_relation_size(rest::regclass) not between 1 and 16777216;
        for day in execute format('select distinct (%1$I at time zone ''UTC'')::date from %2$s where isfinite(%1$I)
                                   order by 1 desc', history.key, rest) loop
            part := format('%I.%I', '{channel}', history.name || to_char(day, '"_"YYYYMMDD'));
            bounds := format('from (%L) to (%L)', day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            move := format('with moved as (delete from %1$s where %2$I >= %3$L and %2$I < %4$L returning *)
                            insert into %5$s select * from moved', rest, history.key, day || ' 00:00:00+00',
                           day + 1 || ' 00:00:00+00', part);
            begin
                execute format('create table %s (like %I.%I including defaults including constraints
                                including indexes)', part, '{channel}', history.name);
                execute move;
                execute format('lock table %s in access exclusive mode', rest);
                execute move;
                execute format('alter table %I.%I attach partition %s for values %s',
                               '{channel}', history.name, part, bounds);
                return format('rows of %s in %s_default have a partition', day, history.name);
            exception when lock_not_available or deadlock_detected or check_violation or duplicate_table
                      or invalid_object_definition then
                raise debug 'rows of % stay in %', day, rest using detail = sqlerrm;
            end;
        end loop;
    end loop;
    for history in select * from (values ('job_finished'), ('transition'), ('activity'), ('published_event'))
                   as h(name) loop
        rest := format('%I.%I', '{channel}', history.name || '_default');
        continue when pg_relation_size(rest::regclass) > 16777216;
        for day in select d::date from generate_series((now() at time zone 'UTC')::date - 1,
                                                       (now() at time zone 'UTC')::date + 7, interval '1 day') as d loop
            continue when exists (select from {s}.partition_status p where p.history = history.name
                                  and day between p.first_day and p.last_day);
            part := format('%I.%I', '{channel}', history.name || to_char(day, '"_"YYYYMMDD'));
            bounds := format('from (%L) to (%L)', day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            begin
                execute format('create table %s (like %I.%I including defaults including constraints)',
                               part, '{channel}', history.name);
                execute format('alter table %I.%I attach partition %s for values %s',
                               '{channel}', history.name, part, bounds);
                made := made + 1;
            exception when check_violation or lock_not_available or duplicate_table then
                raise debug 'partition % is left for later', part using detail = sqlerrm;
            end;
        end loop;
    end loop;
    return case when made > 0 then format('%s partitions are made', made) end;
end
$$""",
    "revoke execute on function {s}.publish from public",
    "revoke execute on function {s}.event_flow from public",
    """comment on function {s}.publish is
    'Publish an event: one row, and a job of each task that subscribes to its topic; returns the id of the event'""",
    "comment on table {s}.published_event is 'Events that were published, as long as retention keeps them'",
    "comment on column {s}.published_event.delivered is 'The subscriptions that have got it'",
    "comment on table {s}.subscription is 'The tasks that get events, and the options of their jobs'",
    "comment on column {s}.subscription.expressions is 'The patterns as regular expressions over .word.word'",
    "comment on column {s}.subscription.takes is 'The fields of the data that are arguments of the task'",
    "comment on column {s}.subscription.whole_as is 'The parameter of the task that gets the whole event'",
    "comment on column {s}.subscription.rules is 'The rules of flow control that concern its jobs, and their keys'",
    "comment on column {s}.subscription.declared is 'What the code declares'",
    "comment on table {s}.subscription_pattern is 'The patterns of subscriptions, by a part that fitting topics have'",
    "comment on table {s}.subscription_release is 'Processes that declare subscriptions, by app and release'",
    "comment on view {s}.event_status is 'Published events without their data'",
    "comment on view {s}.subscription_status is 'The tasks that get events, their patterns, and options of their jobs'",
)

COLUMNS = {
    "event_status": {
        "id": "The id of the event; later ones have higher ones",
        "at": "When it was published, by the clock of the database",
        "topic": "Its topic",
        "key": "The key that the publisher gave, such as the id of an order; null for none",
        "subscribers": "How many tasks have got it",
    },
    "subscription_status": {
        "id": "The number of the subscription",
        "task": "The task that gets the events",
        "patterns": "The patterns of topics that it gets",
        "queue": "The queue of its jobs",
        "priority": "The priority of its jobs",
        "max_attempts": "How many runs a job has at most",
        "takes": "The fields of the data that are its arguments",
        "whole_as": "The parameter that gets the whole event; null for none",
        "app": "The app whose code declares it",
        "declared_at": "When this declaration was written",
        "disabled_at": "Since when it gets no events; null while it gets them",
        "disabled_by": "Who disabled it; null where the code declares it no longer",
    },
}


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    comments = (
        f"comment on column {{s}}.{view}.{column} is '{comment}'"
        for view, columns in COLUMNS.items()
        for column, comment in columns.items()
    )
    for statement in (*STATEMENTS, *comments):
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
