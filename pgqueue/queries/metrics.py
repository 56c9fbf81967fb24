"""What the exporter of metrics reads of the database: views that stop at a bound, and the catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

from pgqueue.queries.base import Query, Row, Statements

MOST_SCHEDULES = 1000

# Each queue by phase. Three views, each bounded on any backlog; the naive form groups the whole of job_live. Read in
# one snapshot, so that retries that wait are part of what is for later. Parked jobs are summed once: a subquery for
# each queue reads ten thousand of them as often as there are queues.
QUEUES: LiteralString = """
with parked as materialized (
    select p.queue::text as queue, sum(p.jobs)::bigint as jobs from {s}.parked_load p group by 1
)
select q.queue::text, q.due, q.due_capped, q.turn, q.turn_capped,
       greatest(q.scheduled - coalesce(r.retrying, 0::bigint), 0::bigint),
       coalesce(r.retrying, 0::bigint), q.running, coalesce(p.jobs, 0::bigint), q.scheduled_capped,
       coalesce(q.oldest_due_seconds, 0::float8), q.paused_at is not null, q.slots
from {s}.queue_load q
left join {s}.retry_load r on r.queue::text = q.queue::text
left join parked p on p.queue = q.queue::text"""

# Jobs that wait for others or are asleep, workflows that live, and letters that are still to be delivered. Each view
# stops at a bound.
WAITING: LiteralString = """
select w.queue::text, w.for_jobs, w.for_jobs_capped, w.sleeping, w.waiting, w.asleep_capped from {s}.waiting_load w"""
WORKFLOWS: LiteralString = """
select w.running, w.open, w.held, w.stopping, w.capped, coalesce(w.oldest_seconds, 0::float8),
       coalesce(w.unsettled_seconds, 0::float8)
from {s}.workflow_load w"""
LETTERS: LiteralString = "select l.kind, l.letters, l.oldest_seconds from {s}.letter_load l"

# Workers and schedulers by what they are. A few rows: the view counts running jobs only where that column is asked for.
WORKERS: LiteralString = """
select w.kind::text, w.status::text, w.version::text, count(*) from {s}.worker_health w group by 1, 2, 3"""

# Dead letters and parked jobs by task, and whether a worker knows the task, of at most 10,000 rows each.
DEAD: LiteralString = "select d.queue, d.task, d.jobs, d.known from {s}.dead_load d"
PARKED: LiteralString = """
select p.task, p.version, sum(p.jobs)::bigint from {s}.parked_load p where not p.known group by 1, 2"""

# How late each schedule is, and its last tick that fired. Of many schedules the latest.
SCHEDULES: LiteralString = """
select s.name, case when s.state = 'active' then s.lag_seconds else 0::float8 end,
       case when s.last_outcome = 'fired' then s.last_tick end
from {s}.schedule_status s order by s.lag_seconds desc nulls last, s.name limit %(most)s::int"""

# Since when the oldest snapshot is held, by connection or prepared transaction. Null where this role does not see those
# of others: then nothing can be said.
SNAPSHOT: LiteralString = """
select case when pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') then greatest(
    (select max(extract(epoch from statement_timestamp() - a.xact_start)::float8)
     from pg_catalog.pg_stat_activity a where a.backend_xmin is not null and a.pid <> pg_catalog.pg_backend_pid()),
    (select max(extract(epoch from statement_timestamp() - p.prepared)::float8) from pg_catalog.pg_prepared_xacts p),
    0::float8) end,
    pg_catalog.pg_notification_queue_usage()"""

# The named locks that are held, and those of them for which somebody waits, among any `most` rows of the table and one
# more; one more means "more than that". With null for `most` it counts to the end. The table has a row for each held
# lock, and for each that a dead holder left behind. No index orders them by time, so it reads them as they come, and
# locks none. The naive form counts lock_status: there the bound stands behind the condition, and however many rows have
# expired are read to find those that have not.
LOCKS: LiteralString = """
select count(*) filter (where l.expires_at > clock_timestamp()),
       count(*) filter (where l.expires_at > clock_timestamp() and l.waited_until > clock_timestamp()),
       coalesce(count(*) > %(most)s::int, false)
from (select n.expires_at, n.waited_until from {s}.named_lock n limit %(most)s::int + 1) as l"""

# Dead rows and bytes of each table; those of a history are the sums of its partitions. From the catalogue, the
# statistics and the files.
TABLES: LiteralString = """
select coalesce(parent.relname, c.relname)::text, coalesce(sum(s.n_dead_tup), 0::numeric)::bigint,
       coalesce(sum(pg_catalog.pg_total_relation_size(c.oid::regclass)), 0::numeric)::bigint
from pg_catalog.pg_class c
left join pg_catalog.pg_inherits i on i.inhrelid = c.oid
left join pg_catalog.pg_class parent on parent.oid = i.inhparent
left join pg_catalog.pg_stat_all_tables s on s.relid = c.oid
where c.relkind = 'r'::"char" and c.relnamespace = to_regnamespace(quote_ident({channel}))::oid group by 1"""

# How many days ahead of today (UTC) each history has partitions, and the bytes of its default partition.
PARTITIONS: LiteralString = """
select p.history,
       coalesce(max(p.last_day) filter (where not p.is_default) - (now() at time zone 'UTC')::date, 0)::float8,
       coalesce(max(p.bytes) filter (where p.is_default), 0::bigint)
from {s}.partition_status p group by 1"""

REVISION: LiteralString = "select m.version_num::text from {s}.migration m"


class QueueGauges(NamedTuple):
    """A queue: jobs by phase, whether there are more than were counted, how long the oldest due one has waited."""

    queue: str
    due: int
    due_capped: bool
    turn: int
    turn_capped: bool
    scheduled: int
    retrying: int
    running: int
    blocked: int
    later_capped: bool
    oldest_due_seconds: float
    paused: bool
    slots: int


class WaitingGauges(NamedTuple):
    """The jobs of a queue that wait for others, sleep, or wait for a signal, an event or a call."""

    queue: str
    for_jobs: int
    for_jobs_capped: bool
    sleeping: int
    waiting: int
    asleep_capped: bool


class WorkflowGauges(NamedTuple):
    """Workflows that live, each counted once, and for how long the oldest lives and the oldest is unsettled."""

    running: int
    open: int
    held: int
    stopping: int
    capped: bool
    oldest_seconds: float
    unsettled_seconds: float


@dataclass(frozen=True, slots=True)
class LockCounts:
    """Named locks: how many are held, and for how many of these somebody waits. `at_least`: there are more rows than
    were looked at."""

    held: int
    waited_for: int
    at_least: bool = False


class MetricQueries(Statements):
    """What the exporter of metrics reads."""

    def queues(self) -> Query[list[QueueGauges]]:
        """Read each queue."""
        return Query(self._sql(QUEUES), lambda rows: [QueueGauges(*row) for row in rows])

    def waiting(self) -> Query[list[WaitingGauges]]:
        """Count the jobs of each queue that wait for others or are asleep."""
        return Query(self._sql(WAITING), lambda rows: [WaitingGauges(*row) for row in rows])

    def workflows(self) -> Query[WorkflowGauges]:
        """Count the workflows that live."""
        return Query(self._sql(WORKFLOWS), lambda rows: WorkflowGauges(*rows[0]))

    def letters(self) -> Query[list[tuple[str, int, float | None]]]:
        """Count the letters of each kind that are still to be delivered; and how long the oldest of them waits."""
        return Query(self._sql(LETTERS), _rows)

    def workers(self) -> Query[list[tuple[str, str, str, int]]]:
        """Count processes by kind, status and version."""
        return Query(self._sql(WORKERS), _rows)

    def dead(self) -> Query[list[tuple[str, str, int, bool]]]:
        """Count dead letters by queue and task, and tell whether a worker knows the task."""
        return Query(self._sql(DEAD), _rows)

    def parked(self) -> Query[list[tuple[str, str, int]]]:
        """Count the jobs that no living worker knows, by task and version."""
        return Query(self._sql(PARKED), _rows)

    def schedules(self) -> Query[list[tuple[str, float, datetime | None]]]:
        """Return each schedule with its lag in seconds and its last tick that fired."""
        return Query(self._sql(SCHEDULES), _rows, {"most": MOST_SCHEDULES})

    def snapshot(self) -> Query[tuple[float | None, float]]:
        """Return the age of the oldest snapshot, None if this role cannot see it; and how full NOTIFY's queue is."""
        return Query(self._sql(SNAPSHOT), lambda rows: (rows[0][0], rows[0][1]))

    def locks(self, most: int | None) -> Query[LockCounts]:
        """Count the named locks that are held, among at most so many rows and one more; None counts to the end."""
        return Query(self._sql(LOCKS), lambda rows: LockCounts(*rows[0]), {"most": most})

    def tables(self) -> Query[list[tuple[str, int, int]]]:
        """Return dead rows and bytes of each table."""
        return Query(self._sql(TABLES), _rows)

    def partitions(self) -> Query[list[tuple[str, float, int]]]:
        """Return the days ahead and the bytes of the default partition of each history."""
        return Query(self._sql(PARTITIONS), _rows)

    def revision(self) -> Query[str | None]:
        """Return the migration that the schema is at."""
        return Query(self._sql(REVISION), lambda rows: rows[0][0] if rows else None)


def _rows(rows: Sequence[Row]) -> list[Any]:
    return list(rows)
