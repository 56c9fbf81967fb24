"""Retention: how long what has ended is kept, as rows; and the functions that empty and drop old partitions.

Revision ID: 0019
Revises: 0018
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATEMENTS = (
    # What an operator has set wins over what the code of an app declares, which stays beside it. A value of null is for
    # ever.
    """create table {s}.setting (
    name text not null check (name !~ '^retention[.]' or name in (
        'retention.succeeded', 'retention.cancelled', 'retention.failed', 'retention.history', 'retention.ticks',
        'retention.operations', 'retention.activity')),
    queue text not null default '*' check (char_length(queue) between 1 and 100),
    task text not null default '*' check (char_length(task) between 1 and 200),
    source text not null default 'operator' check (source in ('operator', 'code')),
    value interval check (value between interval '0' and interval '200 years'),
    app text,
    set_by text default session_user,
    set_at timestamptz not null default clock_timestamp(),
    primary key (name, queue, task, source),
    constraint setting_app check ((source = 'code') = (app is not null)),
    constraint setting_of_jobs check ((queue = '*' and task = '*')
        or name in ('retention.succeeded', 'retention.cancelled', 'retention.failed'))
)""",
    # How far a partition has been pruned of the rows that are older than `age`: blocks before `block` are done, under
    # the rules whose hash is `rules`. `closed`: its days were over by then. With the age 0, when it was last emptied.
    """create table {s}.pruned (
    relation text not null,
    age interval not null default '0',
    block bigint not null default 0,
    closed boolean not null default false,
    rules text not null default '',
    at timestamptz not null default clock_timestamp(),
    primary key (relation, age)
)""",
    """create view {s}.retention as
select distinct on (g.name, g.queue, g.task) g.name, g.queue, g.task, g.value, g.set_by
from (select d.name, '*'::text as queue, '*'::text as task, d.value, 'default'::text as set_by, 3 as place
      from (values ('succeeded', interval '7 days'), ('cancelled', interval '7 days'), ('failed', null),
                   ('history', interval '90 days'), ('ticks', interval '90 days'), ('operations', interval '90 days'),
                   ('activity', interval '30 days')) as d(name, value)
      union all
      select substr(s.name, 11), s.queue, s.task, s.value,
             case when s.source = 'operator' then coalesce(s.set_by, 'operator') else rtrim('code of ' || s.app) end,
             case when s.source = 'operator' then 1 else 2 end
      from {s}.setting s where s.name like 'retention.%') as g
order by g.name, g.queue, g.task, g.place""",
    # Partitions of which every row is older than the longest rule. By name: a bound that the catalogue prints depends
    # on settings of the session.
    """create view {s}.old_partition as
select h.history, c.relname::text as partition, p.first, p.past, pg_relation_size(c.oid) as heap_bytes,
       pg_total_relation_size(c.oid) as bytes
from (values ('job_finished', '{s}.job_finished'::regclass), ('transition', '{s}.transition'::regclass),
             ('activity', '{s}.activity'::regclass)) as h(history, parent)
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
    or r.name in ('succeeded', 'cancelled') and h.history <> 'activity')""",
    # Whether another transaction has held a lock on one of the relations for a twentieth of a second. Whoever waits for
    # a lock makes all others wait behind it, so this is asked first.
    """create function {s}.held_for_long(relations oid[]) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    holders constant text[] := array(
        select l.virtualtransaction || ' ' || l.relation from pg_locks l
        where l.locktype = 'relation' and l.database = (select d.oid from pg_database d
                                                        where d.datname = current_database())
        and l.relation = any(relations) and l.pid is distinct from pg_backend_pid());
begin
    if holders = '{{}}' then
        return false;
    end if;
    perform pg_sleep(0.05);
    return exists (select from pg_locks l
                   where l.locktype = 'relation' and l.virtualtransaction || ' ' || l.relation = any(holders));
end
$$""",
    # Empty an old partition: it alone is locked, for milliseconds, and no insert reaches it. Of a partition of
    # transitions the rows of dead letters and of jobs that have not ended stay, as long as the rule `history` says:
    # they are read beforehand, for nobody writes them any more, and put back. If there are more than 10,000, the
    # partition stays as it is for another day.
    """create function {s}.empty_partition(name text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' set enable_seqscan = on as $$
declare
    part constant text := format('%I.%I', '{channel}', name);
    old record;
    remains {s}.transition[] := '{{}}';
    whole bigint;
begin
    if not pg_try_advisory_xact_lock(hashtext('{channel}'), hashtext('make partitions')) then
        return false;
    end if;
    select * into old from {s}.old_partition o where o.partition = empty_partition.name;
    if not found or old.heap_bytes = 0 or {s}.held_for_long(array[part::regclass::oid]) then
        return false;
    end if;
    if old.history = 'transition' and (select r.value is null or old.past > now() - r.value
                                       from {s}.retention r where r.name = 'history') then
        execute format('select coalesce(array_agg(kept.t), ''{{}}'') from (
                            select t::{s}.transition from %s t
                            where t.job_id in (select j.id from {s}.job_live j union all
                                               select d.id from {s}.dead_letter d) limit 10001) as kept(t)', part)
            into remains;
        execute format('select count(*) from (select from %s limit 10001) as counted', part) into whole;
    end if;
    insert into {s}.pruned (relation) values (name) on conflict (relation, age) do update set at = clock_timestamp();
    if cardinality(remains) > 10000 or cardinality(remains) = whole and whole > 0 then
        return false;
    end if;
    execute format('truncate table only %s', part);
    if remains <> '{{}}' then
        execute format('insert into %s select r.* from unnest($1) as r', part) using remains;
    end if;
    return true;
exception when lock_not_available or insufficient_privilege or undefined_table then
    return false;
end
$$""",
    # Drop an old partition that is empty. The parent is locked first, as readers do, so that no deadlock is possible,
    # and the others without waiting: inserts wait at most for `lock_timeout` and the change of the catalogue.
    """create function {s}.drop_partition(name text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '50ms' as $$
declare
    part constant text := format('%I.%I', '{channel}', name);
    old record;
    parent text;
    rows boolean;
begin
    if not pg_try_advisory_xact_lock(hashtext('{channel}'), hashtext('make partitions')) then
        return false;
    end if;
    select * into old from {s}.old_partition o where o.partition = drop_partition.name;
    if not found or old.heap_bytes > 0 then
        return false;
    end if;
    parent := format('%I.%I', '{channel}', old.history);
    if {s}.held_for_long(array[part::regclass::oid, parent::regclass::oid, (parent || '_default')::regclass::oid]) then
        return false;
    end if;
    execute format('lock table only %s in access exclusive mode', parent);
    execute format('lock table only %s, only %s in access exclusive mode nowait', part, parent || '_default');
    execute format('select exists (select from only %s)', part) into rows;
    if not rows then
        execute format('drop table %s', part);
        delete from {s}.pruned p where p.relation = drop_partition.name;
    end if;
    return not rows;
exception when lock_not_available or insufficient_privilege or undefined_table then
    return false;
end
$$""",
    "comment on table {s}.setting is 'Settings of operators and of code; retention.… says how long what ended is kept'",
    "comment on table {s}.pruned is 'How far partitions have been pruned'",
    "comment on view {s}.retention is 'How long is kept what has ended; a value of null is for ever'",
    "comment on view {s}.old_partition is 'Partitions of which every row is older than retention keeps it'",
    "comment on function {s}.empty_partition is 'Empty a partition that old_partition lists; false: not now'",
    "comment on function {s}.drop_partition is 'Drop an empty partition that old_partition lists; false: not now'",
    "revoke execute on function {s}.held_for_long from public",
    "revoke execute on function {s}.empty_partition from public",
    "revoke execute on function {s}.drop_partition from public",
)

COLUMNS = {
    "retention": {
        "name": "What is kept: jobs by their last state, history, ticks, operations or activity",
        "queue": "Only jobs of this queue, or of those that the pattern fits; * is any",
        "task": "Only jobs of this task, or of those that the pattern fits; * is any",
        "value": "How long it is kept; null is for ever",
        "set_by": "Who said so: default, code and its app, or an operator",
    },
    "old_partition": {
        "history": "The table that it is a part of",
        "partition": "The name of the partition",
        "first": "When its first day begins",
        "past": "When its last day is over",
        "heap_bytes": "The size of its rows; 0 if it is empty",
        "bytes": "Its size with indexes",
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
