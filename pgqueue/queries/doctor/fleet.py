"""Processes, schedules and dead letters, as far as the doctor asks."""

from datetime import datetime
from typing import LiteralString, NamedTuple

from pgqueue.queries.base import Query, Statements

# List processes: whether each beats, what it runs, when its duties last worked. A process that is lost for an hour has
# no row any more.
PROCESSES: LiteralString = """
select w.kind, w.host, w.pid, w.version || coalesce(' of release ' || w.release, ''), w.started_at, w.heartbeat_at,
       w.lost_at, coalesce(w.death, ''), w.lease_seconds,
       w.lost_at is null and w.heartbeat_at >= now() - make_interval(secs => w.lease_seconds), w.duties
from {s}.worker w order by w.started_at"""

# Tell whether somebody has to fire schedules: whether any may tick again. By schedule_wake, backwards over the nulls
# of those that never do.
HAS_SCHEDULES: LiteralString = """
select coalesce((select true from {s}.schedule s where s.wake_at > '-infinity' order by s.wake_at limit 1), false)"""

# List the schedules that cannot be used, and those to which no scheduler has looked in time, the latest first. Reads
# the schedules, of which there are some thousands at most; nothing bounds how many of them are broken.
ILL_SCHEDULES: LiteralString = """
select s.name, s.error, s.wake_at from {s}.schedule s
where s.disabled_at is null and s.paused_at is null
and (s.error is not null or s.wake_at < now() - make_interval(secs => %(late)s::float8))
order by s.error is null, s.wake_at limit 20"""

# Count dead letters, up to `most` and one more, and those of the last hour, by dead_letter_failed_at.
DEAD_LETTERS: LiteralString = """
select (select count(*) from (select from {s}.dead_letter order by failed_at desc limit %(most)s::int + 1) as newest),
       (select count(*) from (select from {s}.dead_letter where failed_at > now() - interval '1 hour'
                              order by failed_at desc limit %(most)s::int + 1) as newest)"""

# Tell which of two indexes guards its keys: the one of unique keys, and the one of idempotency keys.
GUARDING_INDEXES: LiteralString = """
select i.relname::text from pg_catalog.pg_index x join pg_catalog.pg_class i on i.oid = x.indexrelid
where i.relnamespace = to_regnamespace(quote_ident({channel}::text))::oid
and i.relname in ('job_live_unique', 'idempotency_key_pkey') and x.indisunique and x.indisvalid"""


class Process(NamedTuple):
    """A worker or scheduler. `runs`: its version of pgqueue, and the release of its app if it has told. `duties`: how
    many seconds before the last heartbeat each last worked, None for one that had nothing to do yet."""

    kind: str
    host: str
    pid: int
    runs: str
    started_at: datetime
    heartbeat_at: datetime
    lost_at: datetime | None
    death: str
    lease_seconds: float
    lives: bool
    duties: dict[str, float | None]

    def __str__(self) -> str:
        return f"{self.kind} {self.host}:{self.pid}"


class IllSchedule(NamedTuple):
    """A schedule that is broken (`error`) or late (`wake_at` has passed)."""

    name: str
    error: str | None
    wake_at: datetime | None


class DeadLetterCount(NamedTuple):
    """How many dead letters there are, and how many of them failed within the last hour; one more than was asked for
    stands for more."""

    all: int
    last_hour: int


class FleetQueries(Statements):
    """Processes, schedules and dead letters."""

    def processes(self) -> Query[list[Process]]:
        """List workers and schedulers, those that were lost within the last hour too."""
        return Query(self._sql(PROCESSES), lambda rows: [Process(*row) for row in rows])

    def has_schedules(self) -> Query[bool]:
        """Tell whether any schedule may tick again."""
        return Query(self._sql(HAS_SCHEDULES), lambda rows: bool(rows[0][0]))

    def ill_schedules(self, late: float) -> Query[list[IllSchedule]]:
        """List schedules that are broken, or late by so many seconds."""
        return Query(self._sql(ILL_SCHEDULES), lambda rows: [IllSchedule(*row) for row in rows], {"late": late})

    def dead_letters(self, most: int) -> Query[DeadLetterCount]:
        """Count dead letters, up to so many and one more."""
        return Query(self._sql(DEAD_LETTERS), lambda rows: DeadLetterCount(*rows[0]), {"most": most})

    def guarding_indexes(self) -> Query[list[str]]:
        """List those of the two indexes that keep keys unique which do."""
        return Query(self._sql(GUARDING_INDEXES), lambda rows: [row[0] for row in rows])
