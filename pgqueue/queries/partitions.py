"""The daily partitions of the three histories: made ahead, and what to do about rows that came before their partition.

A partition is called like its history and the days that it holds: `transition_20260101`, or, with the day after the
last one, `transition_20260101_20260110`. Rows of a day without a partition go to the default partition: nothing waits
and nothing is lost. But Postgres makes no partition for a day of which the default partition has rows, and reads the
whole default partition under a lock to find that out; beyond 16 MB inserts would wait too long for that.
"""

from datetime import date
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill, first_value, nothing

# The histories, and the column by which each is partitioned.
_HISTORIES: LiteralString = "(values ('job_finished', 'finished_at'), ('transition', 'at'), ('activity', 'at'))"
_PARENTS: LiteralString = "constant text[] := array['job_finished', 'transition', 'activity']"
_KEYS: LiteralString = "constant text[] := array['finished_at', 'at', 'at']"

LARGE = 16 * 1024 * 1024  # a default partition beyond this is not read under a lock; the blocks below have the number

# The days that attached partitions hold, `past` being the day after the last one. By name: a bound that the catalogue
# prints depends on settings of the session.
_HELD: LiteralString = fill(
    """
    select h.parent, to_date(named[1], 'YYYYMMDD') as first,
           coalesce(to_date(named[2], 'YYYYMMDD'), to_date(named[1], 'YYYYMMDD') + 1) as past
    from {histories} as h(parent, key)
    join pg_catalog.pg_inherits i on i.inhparent = to_regclass(format('%I.%I', {channel}::text, h.parent))::oid
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    cross join lateral regexp_match(c.relname::text, '_([0-9]{{8}})(?:_([0-9]{{8}}))?$') as named
    where named is not null""",
    histories=_HISTORIES,
)

# What each transaction of the blocks below begins with. Any process may call them at any time: one does the work (a
# transaction lock that is tried, not waited for), the others return at once. `lock_timeout` gives up rather than queue
# up behind a long report and block everybody after it; it is shorter than deadlock_timeout, so that no other session
# is the victim of a deadlock with this one.
_TURN: LiteralString = """pg_try_advisory_xact_lock(hashtext({channel}), hashtext('make partitions'))"""
_CAREFUL: LiteralString = """perform set_config('lock_timeout', '500ms', true);
    perform set_config('search_path', 'pg_catalog, pg_temp', true);"""

# The name of the CHECK that BOUND gives a default partition, which will be the name of the partition.
_STRETCH: LiteralString = """(
            select c.conname from pg_catalog.pg_constraint c
            where c.conrelid = rest::regclass::oid and c.conname::text ~ '_[0-9]{{8}}_[0-9]{{8}}$')"""

# Make the partitions of yesterday, today and the days ahead, where they are missing. UTC days. A partition is built
# apart and then attached, which locks the parent only against other DDL. What cannot be made now (locked, rows of that
# day in the default partition, no privilege) is left for the next call.
MAKE: LiteralString = fill(
    """
do $make_partitions$
declare
    history record;
    day date;
    part text;
begin
    {careful}
    if not {turn} then
        return;
    end if;
    for history in select * from {histories} as h(parent, key) loop
        for day in select d::date from generate_series((now() at time zone 'UTC')::date - 1,
                                                       (now() at time zone 'UTC')::date + 7, interval '1 day') as d loop
            part := history.parent || to_char(day, '"_"YYYYMMDD');
            continue when exists (select from ({held}) as held
                                  where held.parent = history.parent and day >= held.first and day < held.past)
                or pg_relation_size(format('%I.%I', {channel}, history.parent || '_default')::regclass) > 16777216;
            begin
                execute format('create table %I.%I (like %I.%I including defaults including constraints)',
                               {channel}, part, {channel}, history.parent);
                execute format('alter table %I.%I attach partition %I.%I for values from (%L) to (%L)',
                               {channel}, history.parent, {channel}, part,
                               day || ' 00:00:00+00', day + 1 || ' 00:00:00+00');
            exception when check_violation or lock_not_available or insufficient_privilege or duplicate_table then
                raise debug 'partition % is left for later: %', part, sqlerrm;
            end;
        end loop;
    end loop;
end
$make_partitions$""",
    turn=_TURN,
    careful=_CAREFUL,
    held=_HELD,
    histories=_HISTORIES,
)

# Give each day of which a small default partition has rows a partition of its own, and move its rows there, the newest
# day first and each in a transaction of its own. They are moved before the lock is taken; what was inserted meanwhile
# follows under it. Readers see each row at one of the two places.
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
                execute format('lock table %s in access exclusive mode', rest);
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
    turn=_TURN,
    careful=_CAREFUL,
    parents=_PARENTS,
    keys=_KEYS,
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
        using (select coalesce(range_agg(daterange(held.first, held.past)), '{{}}') from ({held}) as held
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
    turn=_TURN,
    careful=_CAREFUL,
    held=_HELD,
    parents=_PARENTS,
    keys=_KEYS,
)

# Move the days that GUARD has chosen into partitions of their own, each in a transaction of its own, so that readers
# see each row at one of two places. A day that cannot be attached now loses its CHECK, and is chosen again later.
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
    turn=_TURN,
    careful=_CAREFUL,
    parents=_PARENTS,
    keys=_KEYS,
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
        held := (select coalesce(range_agg(daterange(held.first, held.past)), '{{}}') from ({held}) as held
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
    turn=_TURN,
    careful=_CAREFUL,
    held=_HELD,
    stretch=_STRETCH,
    parents=_PARENTS,
    keys=_KEYS,
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
    turn=_TURN,
    careful=_CAREFUL,
    stretch=_STRETCH,
    parents=_PARENTS,
)

# For each history the days of the coming week that no partition holds, and the size of its default partition. A
# running process makes the partition of the last day within an hour, hence six days ahead and not seven. Reads only the
# catalogue.
STATES: LiteralString = fill(
    """
select h.parent, min(d.day)::date, count(d.day)::int, size.bytes
from {histories} as h(parent, key)
cross join lateral (
    select coalesce(pg_relation_size(to_regclass(format('%I.%I', {channel}::text, h.parent || '_default'))), 0)
) as size(bytes)
left join lateral (
    select d.day from generate_series((now() at time zone 'UTC')::date, (now() at time zone 'UTC')::date + 6,
                                      interval '1 day') as d(day)
    where not exists (select from ({held}) as held
                      where held.parent = h.parent and d.day >= held.first and d.day < held.past)
) as d on true
group by h.parent, size.bytes
order by h.parent""",
    held=_HELD,
    histories=_HISTORIES,
)


# Tell whether this role has to leave the upkeep to `maintain`, because it does not own the histories. Reads the
# catalogue.
DELEGATED: LiteralString = """
select coalesce(bool_and(not pg_has_role(c.relowner, 'USAGE') and has_function_privilege(m.oid, 'EXECUTE')), false)
from pg_catalog.pg_class c
join pg_catalog.pg_proc m on m.pronamespace = c.relnamespace and m.proname = 'maintain'::name
where c.oid = to_regclass(format('%I.%I', {channel}::text, 'job_finished'))::oid"""

# Do one step of what the blocks above do, with the rights of the schema's owner; null if there is none. The function
# (migration 0021) takes the same lock, and gives up on others' locks, as they do.
MAINTAIN: LiteralString = "select {s}.maintain()"


class PartitionState(NamedTuple):
    """The state of a history's partitions: the first of the next seven days that lacks one, how many lack one, and the
    size of the default partition."""

    history: str
    first_missing: date | None
    missing: int
    default_bytes: int

    @property
    def is_good(self) -> bool:
        """Whether rows of the coming days find partitions, and no partition will be missing for lack of upkeep."""
        return not self.missing and self.default_bytes <= LARGE

    def __str__(self) -> str:
        days = f"partitions of {self.missing} of the next 7 days, from {self.first_missing} on, are missing; "
        size = f"{self.default_bytes / 1024 / 1024:.1f} MB are in {self.history}_default"
        return f"{self.history}: {days if self.missing else ''}{size}"


def empty_defaults(queries: "PartitionQueries") -> tuple[Query[None], ...]:
    """Return the statements that empty default partitions, in their order. Each commits by itself."""
    return (
        queries.split_default(),
        queries.guard_default(),
        queries.clear_default(),
        queries.bound_default(),
        queries.outgrow_default(),
    )


def faulty(states: list[PartitionState]) -> list[PartitionState]:
    """Return the states that need an operator, or time."""
    return [state for state in states if not state.is_good]


class PartitionQueries(Statements):
    """The daily partitions of the histories. The verbs on default partitions commit: they need their own connection
    and no transaction."""

    def make(self) -> Query[None]:
        """Make the partitions of today and the week ahead, where they are missing."""
        return Query(self._sql(MAKE), nothing)

    def split_default(self) -> Query[None]:
        """Move the rows of small default partitions into partitions of their days."""
        return Query(self._sql(SPLIT), nothing)

    def guard_default(self) -> Query[None]:
        """Prepare `clear_default`: choose the days to move, where a large default partition has days on both sides of
        a partition."""
        return Query(self._sql(GUARD), nothing)

    def clear_default(self) -> Query[None]:
        """Move the chosen days of large default partitions into partitions of their own."""
        return Query(self._sql(CLEAR), nothing)

    def bound_default(self) -> Query[None]:
        """Prepare `outgrow_default`: keep the days of large default partitions within bounds."""
        return Query(self._sql(BOUND), nothing)

    def outgrow_default(self) -> Query[None]:
        """Turn large default partitions into partitions of their days."""
        return Query(self._sql(OUTGROW), nothing)

    def delegated(self) -> Query[bool]:
        """Tell whether this role owns no histories, and may call `maintain`."""
        return Query(self._sql(DELEGATED), first_value)

    def maintain(self) -> Query[str | None]:
        """Do one step of all the upkeep as the schema's owner; return what it was, None if nothing is to be done."""
        return Query(self._sql(MAINTAIN), first_value)

    def states(self) -> Query[list[PartitionState]]:
        """Return the state of the partitions of each history."""
        return Query(self._sql(STATES), lambda rows: [PartitionState(*row) for row in rows])
