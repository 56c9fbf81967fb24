"""The daily partitions of the four histories: made ahead, and what to do about rows that came before their partition.

A partition is called like its history and the days that it holds: `transition_20260101`, or, with the day after the
last one, `transition_20260101_20260110`. Rows of a day without a partition go to the default partition: nothing waits
and nothing is lost. But Postgres makes no partition for a day of which the default partition has rows, and reads the
whole default partition under a lock to find that out; beyond 16 MB inserts would wait too long for that.
"""

from datetime import date
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements, fill, first_value, nothing
from pgqueue.queries.default_partitions import BOUND, CLEAR, GUARD, OUTGROW, SPLIT
from pgqueue.queries.partition_parts import CAREFUL, HELD, HISTORIES, TURN

LARGE = 16 * 1024 * 1024  # a default partition beyond this is not read under a lock; the blocks below have the number

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
            continue when exists (select from {held} as held
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
    turn=TURN,
    careful=CAREFUL,
    held=HELD,
    histories=HISTORIES,
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
    where not exists (select from {held} as held
                      where held.parent = h.parent and d.day >= held.first and d.day < held.past)
) as d on true
group by h.parent, size.bytes
order by h.parent""",
    held=HELD,
    histories=HISTORIES,
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
