"""Functions that look after the partitions with their owner's rights, for workers that own nothing.

Revision ID: 0021
Revises: 0020
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A function cannot commit, so each call does one bounded step, and the caller calls again: all days of the week
    # ahead that lack a partition, or one day of which a small default partition has rows. What it takes and why is in
    # queries/partitions.py, whose blocks owners run. It has no argument, names every object by its schema, and calls
    # only what is in pg_catalog: its caller can decide nothing but when.
    """create function {s}.maintain() returns text language plpgsql security definer
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
    for history in select * from (values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'))
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
    for history in select * from (values ('job_finished'), ('transition'), ('activity')) as h(name) loop
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
    "revoke all on function {s}.maintain from public",
    # These take the name of a partition that `old_partition` lists, and nothing else.
    "alter function {s}.empty_partition security definer",
    "alter function {s}.drop_partition security definer",
    """comment on function {s}.maintain is
    'Look after the partitions, with the rights of the owner: one step, and what it was; null if there is none'""",
)


def upgrade() -> None:
    schema = op.get_context().opts["pgqueue_schema"]
    for statement in STATEMENTS:
        op.execute(statement.format(s=schema, channel=schema.strip('"')))
