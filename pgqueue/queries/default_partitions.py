"""Blocks of DDL that empty the default partitions of the histories, so that days can have partitions again.

Each commits by itself: it needs a connection without a transaction.
"""

from typing import LiteralString

from pgqueue.queries.base import fill
from pgqueue.queries.partition_parts import CAREFUL, HELD, KEYS, PARENTS, STRETCH, TURN

# Give each day of which a small default partition has rows a partition of its own, and move its rows there, the newest
# day first and each in a transaction of its own. They are moved before the lock is taken; what was inserted meanwhile
# follows under it. Readers see each row at one of the two places: they list the partitions under a lock of the history,
# so that is locked as well. Naive is to lock the default partition alone: who has the list already and waits for that
# one reads it without the rows, and the new partition not at all.
SPLIT: LiteralString = fill(
    """
do $split_default$
declare
    parents {parents};
    keys {keys};
    rest text;
    day date;
    part text;
    move text;
begin
    for n in 1 .. cardinality(parents) loop
        {careful}
        rest := format('%I.%I', {channel}, parents[n] || '_default');
        continue when pg_relation_size(rest::regclass) not between 1 and 16777216 or not (
            select pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = rest::regclass::oid);
        for day in execute format('select distinct (%1$I at time zone ''UTC'')::date from %2$s where isfinite(%1$I)
                                   order by 1 desc', keys[n], rest) loop
            {careful}
            exit when not {turn};
            part := parents[n] || to_char(day, '"_"YYYYMMDD');
            move := format('with moved as (delete from %1$s where %2$I >= %3$L and %2$I < %4$L returning *)
                            insert into %5$I.%6$I select * from moved', rest, keys[n], day || ' 00:00:00+00',
                           day + 1 || ' 00:00:00+00', {channel}, part);
            begin
                execute format('create table %I.%I (like %I.%I including defaults including constraints
                                including indexes)', {channel}, part, {channel}, parents[n]);
                execute move;
                execute format('lock table only %I.%I, %s in access exclusive mode', {channel}, parents[n], rest);
                execute move;
                execute format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               {channel}, parents[n], {channel}, part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when lock_not_available or deadlock_detected or check_violation or insufficient_privilege
                      or duplicate_table or invalid_object_definition then
                raise debug 'rows of % stay in %: %', day, rest, sqlerrm;
            end;
            commit;
        end loop;
    end loop;
end
$split_default$""",
    turn=TURN,
    careful=CAREFUL,
    parents=PARENTS,
    keys=KEYS,
)

# Where partitions lie between the days of a large default partition, choose the days that keep OUTGROW from working:
# all but those of the gap with today, or else with the most rows. Each gets a CHECK, not valid yet, that the day is not
# in the default partition: CLEAR validates it when the rows have gone, and Postgres need not read the whole default
# partition under a lock that its inserts want. It refuses nothing that anybody inserts, for the days around today are
# left alone.
GUARD: LiteralString = fill(
    """
do $guard_default$
declare
    parents {parents};
    keys {keys};
    today constant date := (now() at time zone 'UTC')::date;
    rest text;
    days date[];
    day date;
begin
    for n in 1 .. cardinality(parents) loop
        {careful}
        rest := format('%I.%I', {channel}, parents[n] || '_default');
        continue when pg_relation_size(rest::regclass) <= 16777216 or not {turn} or not (
            select pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = rest::regclass::oid);
        execute format($days$
            with day as (
                select (%1$I at time zone 'UTC')::date as day, count(*) as rows from %2$s
                where isfinite(%1$I) group by 1
            ), placed as (
                select d.day, d.rows, d.day between $2 - 1 and $2 + 2 as is_present,
                       (select count(*) from unnest($1) as h where upper(h) <= d.day) as gap
                from day d
            )
            select coalesce(array_agg(p.day), '{{}}') from placed p
            where not p.is_present
            and p.gap <> (select g.gap from placed g group by g.gap
                          order by bool_or(g.is_present) desc, sum(g.rows) desc, g.gap desc limit 1)$days$,
            keys[n], rest)
        using (select coalesce(range_agg(daterange(held.first, held.past)), '{{}}') from {held} as held
               where held.parent = parents[n]), today into days;
        foreach day in array days loop
            begin
                execute format('alter table %s add constraint %I check (%3$I < %4$L or %3$I >= %5$L) not valid', rest,
                               parents[n] || to_char(day, '"_without_"YYYYMMDD'), keys[n],
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when lock_not_available or duplicate_object then
                raise debug '% keeps %: %', rest, day, sqlerrm;
            end;
        end loop;
        commit;
    end loop;
end
$guard_default$""",
    turn=TURN,
    careful=CAREFUL,
    held=HELD,
    parents=PARENTS,
    keys=KEYS,
)

# Move the days that GUARD has chosen into partitions of their own, each in a transaction of its own, so that readers
# see each row at one of two places, as with SPLIT. A day that cannot be attached now loses its CHECK, and is chosen
# again later.
CLEAR: LiteralString = fill(
    """
do $clear_default$
declare
    parents {parents};
    keys {keys};
    rest text;
    guard text;
    part text;
    day date;
begin
    for n in 1 .. cardinality(parents) loop
        rest := format('%I.%I', {channel}, parents[n] || '_default');
        for guard in select c.conname from pg_catalog.pg_constraint c
                     where c.conrelid = rest::regclass::oid and c.conname::text ~ '_without_[0-9]{{8}}$' loop
            {careful}
            exit when not {turn};
            day := to_date(right(guard, 8), 'YYYYMMDD');
            part := parents[n] || to_char(day, '"_"YYYYMMDD');
            begin
                execute format('create table %I.%I (like %I.%I including defaults including constraints
                                including indexes)', {channel}, part, {channel}, parents[n]);
                execute format('with moved as (delete from %1$s where %2$I >= %3$L and %2$I < %4$L returning *)
                                insert into %5$I.%6$I select * from moved', rest, keys[n], day || ' 00:00:00+00',
                               day + 1 || ' 00:00:00+00', {channel}, part);
                execute format('alter table %s validate constraint %I', rest, guard);
                execute format('lock table only %I.%I in access exclusive mode', {channel}, parents[n]);
                execute format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               {channel}, parents[n], {channel}, part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when lock_not_available or deadlock_detected or check_violation or duplicate_table
                      or invalid_object_definition then
                raise debug 'rows of % stay in %: %', day, rest, sqlerrm;
            end;
            begin
                execute format('alter table %s drop constraint %I', rest, guard);
            exception when lock_not_available or insufficient_privilege then
                raise debug '% keeps %: %', rest, guard, sqlerrm;
            end;
            commit;
        end loop;
    end loop;
end
$clear_default$""",
    turn=TURN,
    careful=CAREFUL,
    parents=PARENTS,
    keys=KEYS,
)

# A default partition that has outgrown 16 MB becomes the partition of the days that it holds and of a week to come,
# with a new one, empty, in its place. No row is moved, and inserts wait for the change of the catalogue alone: a CHECK,
# validated beforehand under a lock that inserts do not need, spares Postgres the reading under a lock that they do.
# This is the CHECK. It refuses no row, because the days that it allows and those of other partitions reach beyond the
# next three days. A server that crashes before OUTGROW leaves it to the next call, which drops it in good time.
# Nothing is done where partitions lie between the days of the rows: CLEAR takes those days out beforehand.
BOUND: LiteralString = fill(
    """
do $bound_default$
declare
    parents {parents};
    keys {keys};
    today constant date := (now() at time zone 'UTC')::date;
    rest text;
    stretch text;
    held datemultirange;
    old daterange;
    bounds daterange;
begin
    for n in 1 .. cardinality(parents) loop
        {careful}
        rest := format('%I.%I', {channel}, parents[n] || '_default');
        continue when pg_relation_size(rest::regclass) <= 16777216 or not (
            select pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = rest::regclass::oid);
        exit when not {turn};
        held := (select coalesce(range_agg(daterange(held.first, held.past)), '{{}}') from {held} as held
                 where held.parent = parents[n]);
        stretch := {stretch};
        if stretch is not null then
            bounds := daterange(to_date(left(right(stretch, 17), 8), 'YYYYMMDD'),
                                to_date(right(stretch, 8), 'YYYYMMDD'));
        else
            execute format('select daterange((min(%1$I) at time zone ''UTC'')::date,
                                             (max(%1$I) at time zone ''UTC'')::date, ''[]'') from %2$s', keys[n], rest)
            into old;
            continue when lower(old) is null or upper(old) > today + 8 or held && old;
            select daterange(greatest(least(lower(old), today - 1), max(upper(h)) filter (where h << old)),
                             least(greatest(upper(old), today + 1) + 7, min(lower(h)) filter (where h >> old)))
            into bounds from unnest(held) as h;
        end if;
        begin
            if held + bounds::datemultirange @> daterange(today - 1, today + 3, '[]') = (stretch is not null) then
                continue;
            elsif stretch is not null then
                execute format('alter table %s drop constraint %I', rest, stretch);
            else
                stretch := parents[n] || to_char(lower(bounds), '"_"YYYYMMDD') || to_char(upper(bounds), '"_"YYYYMMDD');
                execute format('alter table %s add constraint %I check (%3$I >= %4$L and %3$I < %5$L) not valid',
                               rest, stretch, keys[n],
                               lower(bounds) || ' 00:00:00+00', upper(bounds) || ' 00:00:00+00');
            end if;
        exception when lock_not_available then
            raise debug '% stays as it is: %', rest, sqlerrm;
        end;
        commit;
    end loop;
end
$bound_default$""",
    turn=TURN,
    careful=CAREFUL,
    held=HELD,
    stretch=STRETCH,
    parents=PARENTS,
    keys=KEYS,
)

# Make a default partition that BOUND has given a CHECK the partition of its days.
OUTGROW: LiteralString = fill(
    """
do $outgrow_default$
declare
    parents {parents};
    rest text;
    stretch text;
    bounds text[];
begin
    for n in 1 .. cardinality(parents) loop
        {careful}
        rest := format('%I.%I', {channel}, parents[n] || '_default');
        stretch := {stretch};
        continue when stretch is null;
        exit when not {turn};
        bounds := regexp_match(stretch, '([0-9]{{8}})_([0-9]{{8}})$');
        begin
            execute format('alter table %s validate constraint %I', rest, stretch);
            execute format('lock table %I.%I, %s in access exclusive mode', {channel}, parents[n], rest);
            execute format('alter table %I.%I detach partition %s', {channel}, parents[n], rest);
            execute format('alter table %s rename to %I', rest, stretch);
            execute format('create table %s (like %I.%I including defaults including constraints)',
                           rest, {channel}, parents[n]);
            execute format('alter table %I.%I attach partition %s default', {channel}, parents[n], rest);
            execute format('alter table %1$I.%2$I attach partition %1$I.%3$I for values from (%4$L) to (%5$L)',
                           {channel}, parents[n], stretch, to_date(bounds[1], 'YYYYMMDD') || ' 00:00:00+00',
                           to_date(bounds[2], 'YYYYMMDD') || ' 00:00:00+00');
            execute format('alter table %1$I.%2$I drop constraint %2$I', {channel}, stretch);
        exception
            when check_violation then
                execute format('alter table %s drop constraint %I', rest, stretch);
            when lock_not_available or deadlock_detected or duplicate_table or invalid_object_definition
                 or insufficient_privilege then
                raise debug '% stays the default partition: %', rest, sqlerrm;
        end;
        commit;
    end loop;
end
$outgrow_default$""",
    turn=TURN,
    careful=CAREFUL,
    stretch=STRETCH,
    parents=PARENTS,
)
