"""What the pages of the dashboard read beside what commands read: signs of trouble, charts, groups of failures.

A page is looked at again and again, while the backlog is longest: each statement stops at a bound, and none locks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple
from uuid import UUID

from pgqueue.queries.base import Query, fill
from pgqueue.queries.filters import DEAD_GROUP
from pgqueue.queries.ties import TieQueries

MOST_FAILURES = 10_000  # dead letters of which groups are made: the newest
MOST_SIGNS = 50  # of one kind
LATE_SECONDS = 60.0  # a tick that is overdue for longer is late
DAY = 86400.0
HOURS = 24  # of the small chart of a group of failures

# Make the rest of a transaction a look: it writes nothing, ends each statement after its time, and reads in the order
# of an index, as PREFER_INDEXES of queries/jobs/count.py does and for its reasons. The first column is read before the
# setting is made, and says whether the database takes no writes at all: a standby, or one that was made read-only.
LOOK: LiteralString = """
select current_setting('transaction_read_only'), set_config('transaction_read_only', 'on', true),
       set_config('statement_timeout', %(timeout)s, true), set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true), set_config('jit', 'off', true)"""

# Tell what is wrong beside the queues, and by what the pages are out of date: processes that were lost, schedules that
# are late, dead letters of the last hour, operations that run, the newest job and the newest activity. Each part stops
# at a bound: workers and schedules are few rows; dead letters come from the new end of dead_letter_failed_at; jobs and
# activity give one row from the end of an index. One statement, for the sentence on top of every page costs one round
# trip; the naive form asks five questions a page.
SIGNS: LiteralString = """
(select 'worker', w.host || ':'::text || w.pid::text, w.heartbeat_age_seconds, w.status::text
 from {s}.worker_health w where w.status in ('lost', 'silent') order by w.id limit %(most)s::int)
union all
(select 'process', w.id::text, w.slots::float8, concat_ws(' '::text, w.status, w.requested)
 from {s}.worker_health w where w.status not in ('lost', 'silent') order by w.id limit %(most)s::int)
union all
(select 'schedule', c.name, c.lag_seconds, null
 from {s}.schedule_status c where c.state = 'active' and c.lag_seconds > %(late)s::float8
 order by c.lag_seconds desc, c.name limit %(most)s::int)
union all
(select 'operation', o.id::text, (o.done + o.skipped)::float8, o.kind::text from {s}.operation o
 where o.ended_at is null order by o.id limit %(most)s::int)
union all
(select 'dead', null, count(*)::float8, max(newest.id)::text from (
    select d.id from {s}.dead_letter d where d.failed_at > now() - interval '1 hour'
    order by d.failed_at desc limit %(most_dead)s::int) as newest)
union all
(select 'job', null, null, (select j.id::text from {s}.job_live j order by j.id desc limit 1))
union all
(select 'activity', null, null, (select a.at::text from {s}.activity a order by a.at desc limit 1))"""
MOST_DEAD = 1000

# Sum what workers counted in steps of time, by outcome: of everything, a queue, or a task. By activity_at, in a part of
# the span alone; of a task by activity_task. The step is a multiple of the ten seconds of a row. A long span is read in
# parts of a day, each of which ends in time: the naive form reads a month at once, and is given up each time.
ACTIVITY: LiteralString = """
select floor(date_part('epoch'::text, now() - a.at) / %(step)s::float8)::int, a.outcome, sum(a.jobs)::bigint,
       sum(a.run_seconds), sum(a.wait_seconds)
from {s}.activity a
where a.at > now() - make_interval(secs => %(step)s::float8 * %(last)s::float8)
and a.at <= now() - make_interval(secs => %(step)s::float8 * %(first)s::float8)
and (%(queue)s::text is null or a.queue = %(queue)s::text) and (%(task)s::text is null or a.task = %(task)s::text)
group by 1, 2"""

# Sum how long attempts had waited in each queue, in steps of time: for the small charts of the list of queues. By
# activity_at, in the span alone; one statement for all queues, for there may be many.
WAITS: LiteralString = """
select a.queue, floor(date_part('epoch'::text, now() - a.at) / %(step)s::float8)::int, sum(a.jobs)::bigint,
       sum(a.wait_seconds)
from {s}.activity a
where a.at > now() - make_interval(secs => %(step)s::float8 * %(steps)s::float8)
and a.outcome in ('succeeded', 'retried', 'failed') group by 1, 2"""

# Read which tasks, each in which versions, the workers that live have announced; those that have announced the same
# together. A few rows: of a release all workers announce the same.
ANNOUNCED: LiteralString = """
select array_agg(w.id order by w.id), w.tasks from {s}.worker w
where w.kind = 'worker' and w.lost_at is null and w.heartbeat_at >= now() - make_interval(secs => w.lease_seconds)
group by w.tasks"""

# Read the indexes of each table, with their bytes; those of a history are the sums over its partitions, by the index of
# the history that they belong to. From the catalogue and the files. An index that no scan has used since the
# statistics were reset has 0 scans.
INDEXES: LiteralString = """
select coalesce(whole.relname, t.relname)::text, coalesce(top.relname, i.relname)::text,
       sum(pg_relation_size(i.oid::regclass))::bigint, coalesce(sum(u.idx_scan), 0::numeric)::bigint
from pg_catalog.pg_class i
join pg_catalog.pg_index x on x.indexrelid = i.oid
join pg_catalog.pg_class t on t.oid = x.indrelid
left join pg_catalog.pg_inherits within on within.inhrelid = i.oid
left join pg_catalog.pg_class top on top.oid = within.inhparent
left join pg_catalog.pg_inherits part on part.inhrelid = t.oid
left join pg_catalog.pg_class whole on whole.oid = part.inhparent
left join pg_catalog.pg_stat_all_indexes u on u.indexrelid = i.oid
where i.relkind = 'i'::"char" and i.relnamespace = to_regnamespace(quote_ident({channel}))::oid
group by 1, 2 order by 3 desc, 2 limit %(limit)s::int"""

# Sum the attempts of today so far (UTC), or of the same part of the same weekday so many weeks before, with the 95th
# percentile of how long they had waited: one range of activity_at, in the partitions of that day. A day of UTC has
# always 24 hours. Both days are read apart, so that each ends in time, and beside the page, for a day may have a
# hundred thousand rows. The naive form asks for both by one condition with `or`, and reads the week between them.
DAY_SO_FAR: LiteralString = """
with midnight as materialized (
    select (now() at time zone 'UTC')::date::timestamp at time zone 'UTC' as at
), counted as materialized (
    select a.outcome, a.jobs, a.wait_counts from {s}.activity a
    where a.at >= (select m.at from midnight m) - make_interval(days => 7 * %(weeks)s::int)
    and a.at <= now() - make_interval(days => 7 * %(weeks)s::int)
    and a.outcome in ('succeeded', 'retried', 'failed')
), spread as (
    select n::float8 as bucket, sum(c.wait_counts[n]) as jobs
    from counted c cross join lateral generate_subscripts(c.wait_counts, 1) as n group by 1
), summed as (
    select power(2::float8, (s.bucket - 0.5::float8) / 2::float8) / 1000000::float8 as seconds,
           sum(s.jobs) over (order by s.bucket) / sum(s.jobs) over () as share
    from spread s
)
select coalesce(sum(c.jobs), 0)::bigint, coalesce(sum(c.jobs) filter (where c.outcome = 'failed'), 0)::bigint,
       (select min(s.seconds) from summed s where s.share >= 0.95)::float8
from counted c"""

# Sum what the tasks of one queue did within the last hour, the busiest first: by activity_at, in the hour alone.
TASKS_OF_QUEUE: LiteralString = """
select a.task, sum(a.jobs)::bigint, coalesce(sum(a.jobs) filter (where a.outcome = 'failed'), 0)::bigint,
       sum(a.run_seconds)
from {s}.activity a
where a.at > now() - interval '1 hour' and a.queue = %(queue)s::text
and a.outcome in ('succeeded', 'retried', 'failed')
group by 1 order by 2 desc, 1 limit %(limit)s::int"""

# Count the newest dead letters by task and by the day (UTC) on which they failed, of the last seven days. From the new
# end of dead_letter_failed_at, up to a bound.
DAYS_OF_FAILURES: LiteralString = """
select n.task, (now() at time zone 'UTC')::date - (n.failed_at at time zone 'UTC')::date as ago, count(*)
from (select d.task::text as task, d.failed_at::timestamptz as failed_at from {s}.dead_letter d
      order by d.failed_at desc limit %(most)s::int) as n
where n.failed_at > now() - interval '7 days' group by 1, 2"""

# Read how many bytes each of the last seven days (UTC) of each history takes: of the catalogue's rows of partitions.
DAYS_KEPT: LiteralString = """
select p.history, (now() at time zone 'UTC')::date - p.first_day, p.bytes
from {s}.partition_status p
where not p.is_default and p.first_day > (now() at time zone 'UTC')::date - 7
and p.first_day <= (now() at time zone 'UTC')::date"""

# Read how each task did within the last hour, by the view: the busiest first.
TASKS: LiteralString = """
select h.task, h.runs, h.succeeded, h.retried, h.failed, h.error_share, h.run_seconds, h.run_p50, h.run_p95,
       h.wait_p95, h.last_success
from {s}.task_health h
where %(task)s::text is null or h.task = %(task)s::text order by h.runs desc, h.task limit %(limit)s::int"""

# Group the newest dead letters by fingerprint, the latest failure first, with how many failed in each of the last
# hours. From the new end of dead_letter_failed_at, up to a bound; `dead_group`, which reads all of them, takes half a
# second for a hundred thousand. The error is read by primary key, of one dead letter a group: in all of them it would
# have to be brought from TOAST. A group is new by the clock of the database, and only where all dead letters were read:
# else an older one of the group may be among those that were not.
FAILURES: LiteralString = fill(
    """
with newest as materialized (
    select d.id, {sort} as sort, d.task::text as task, d.queue::text as queue,
           d.failed_at::timestamptz as failed_at
    from {s}.dead_letter d order by d.failed_at desc limit %(most)s::int
), grouped as (
    select n.sort, count(*) as jobs, min(n.failed_at) as first_at, max(n.failed_at) as last_at,
           array_agg(distinct n.task) as tasks, array_agg(distinct n.queue) as queues, max(n.id) as newest_id
    from newest n group by n.sort order by max(n.failed_at) desc limit %(limit)s::int
), hourly as (
    select n.sort, floor(extract(epoch from now() - n.failed_at)::float8 / 3600::float8)::int as ago, count(*) as jobs
    from newest n where n.failed_at > now() - make_interval(hours => %(hours)s::int) group by 1, 2
), whole as (
    select count(*) as read from newest n
)
select g.sort, g.jobs, g.first_at, g.last_at, g.tasks, g.queues, g.newest_id,
       coalesce(d.error::jsonb ->> 'type'::text, d.reason), substr(d.error::jsonb ->> 'message'::text, 1, 300),
       (select coalesce(json_agg(json_build_array(h.ago, h.jobs)), '[]') from hourly h where h.sort = g.sort)::text,
       g.first_at > now() - interval '1 hour' and w.read < %(most)s::int, w.read
from grouped g cross join whole w left join lateral (
    select e.error, e.reason from {s}.dead_letter e where e.id = g.newest_id limit 1) as d on true
order by g.last_at desc""",
    sort=fill(DEAD_GROUP, dead="d"),
)


class Sign(NamedTuple):
    """Something that a look has seen: what it is, its name, a number, and a word about it."""

    kind: str
    name: str | None
    number: float | None
    word: str | None


class Step(NamedTuple):
    """What was counted in one step of time, `ago` steps before now, of one outcome."""

    ago: int
    outcome: str
    jobs: int
    run_seconds: float
    wait_seconds: float


class DaySoFar(NamedTuple):
    """What ended in a part of a day, of any outcome; how much failed for good; how long 95 % had waited at most."""

    ended: int
    failed: int
    wait_p95: float | None


class Wait(NamedTuple):
    """How long the attempts that ended in one step of time, `ago` steps before now, had waited: of a queue."""

    queue: str
    ago: int
    jobs: int
    wait_seconds: float


class Announced(NamedTuple):
    """Workers that have announced the same tasks: names, and `name@version` for each version but the first."""

    workers: list[UUID]
    tasks: list[str]


class IndexSize(NamedTuple):
    """An index, its table, its bytes, and how many scans have used it; of a history that of all its days."""

    table: str
    name: str
    bytes: int
    scans: int


class QueueTask(NamedTuple):
    """What a task did in one queue within the last hour."""

    task: str
    runs: int
    failed: int
    run_seconds: float


class FailedDay(NamedTuple):
    """How many of the newest dead letters are of a task and failed on one day, so many days ago."""

    task: str
    ago: int
    jobs: int


class KeptDay(NamedTuple):
    """How many bytes one day of a history takes, so many days ago."""

    history: str
    ago: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TaskHealth:
    """How a task did within the last hour. Times are seconds."""

    task: str
    runs: int
    succeeded: int
    retried: int
    failed: int
    error_share: float | None
    run_seconds: float
    run_p50: float | None
    run_p95: float | None
    wait_p95: float | None
    last_success: datetime | None


class Failures(NamedTuple):
    """A group of the newest dead letters. `hourly`: JSON, how many failed how many hours ago. `is_new`: its first one
    failed within the last hour. `read`: of how many dead letters, in all groups."""

    group: str
    jobs: int
    first_failed_at: datetime
    last_failed_at: datetime
    tasks: list[str]
    queues: list[str]
    newest_id: int
    error: str | None
    message: str | None
    hourly: str
    is_new: bool
    read: int


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time until now, in steps of so many seconds."""

    step: float
    steps: int

    @property
    def days(self) -> list[tuple[int, int]]:
        """The parts of a day of which it consists, as steps before now; one part where it is a day or less."""
        most = max(1, int(DAY // self.step))
        return [(first, min(first + most, self.steps)) for first in range(0, self.steps, most)]


class DashboardQueries(TieQueries):
    """What the dashboard alone reads."""

    def look(self, seconds: float) -> Query[bool]:
        """Make the transaction a look, whose statements may take so long; return whether the database takes no writes
        at all."""
        return Query(self._sql(LOOK), lambda rows: rows[0][0] == "on", {"timeout": f"{int(1000 * seconds)}ms"})

    def signs(self) -> Query[list[Sign]]:
        """Tell what is wrong beside the queues, and by what pages are out of date."""
        params = {"most": MOST_SIGNS, "late": LATE_SECONDS, "most_dead": MOST_DEAD}
        return Query(self._sql(SIGNS), lambda rows: [Sign(*row) for row in rows], params)

    def activity(
        self, span: Span, *, queue: str | None = None, task: str | None = None, part: tuple[int, int] | None = None
    ) -> Query[Sequence[Step]]:
        """Sum what workers counted in a span: of everything, of a queue, or of a task. `part`: only between these two
        steps before now."""
        first, last = part or (0, span.steps)
        params = {"step": span.step, "first": first, "last": last, "queue": queue, "task": task}
        return Query(self._sql(ACTIVITY), lambda rows: [Step(*row) for row in rows], params)

    def waits(self, span: Span) -> Query[list[Wait]]:
        """Sum how long attempts had waited, by queue."""
        params = {"step": span.step, "steps": span.steps}
        return Query(self._sql(WAITS), lambda rows: [Wait(*row) for row in rows], params)

    def announced(self) -> Query[list[Announced]]:
        """Read which tasks the workers that live know."""
        return Query(self._sql(ANNOUNCED), lambda rows: [Announced(*row) for row in rows])

    def indexes(self, limit: int) -> Query[list[IndexSize]]:
        """Read the largest indexes."""
        return Query(self._sql(INDEXES), lambda rows: [IndexSize(*row) for row in rows], {"limit": limit})

    def day_so_far(self, weeks: int) -> Query[DaySoFar]:
        """Sum today so far (0), or the same part of the same weekday a week before (1)."""
        return Query(self._sql(DAY_SO_FAR), lambda rows: DaySoFar(*rows[0]), {"weeks": weeks})

    def tasks_of_queue(self, queue: str, limit: int) -> Query[list[QueueTask]]:
        """Sum what the tasks of a queue did within the last hour."""
        params = {"queue": queue, "limit": limit}
        return Query(self._sql(TASKS_OF_QUEUE), lambda rows: [QueueTask(*row) for row in rows], params)

    def days_of_failures(self) -> Query[list[FailedDay]]:
        """Count the newest dead letters of the last seven days by task and day."""
        return Query(
            self._sql(DAYS_OF_FAILURES), lambda rows: [FailedDay(*row) for row in rows], {"most": MOST_FAILURES}
        )

    def days_kept(self) -> Query[list[KeptDay]]:
        """Read how big each of the last seven days of each history is."""
        return Query(self._sql(DAYS_KEPT), lambda rows: [KeptDay(*row) for row in rows])

    def tasks(self, limit: int, task: str | None = None) -> Query[list[TaskHealth]]:
        """Read how tasks did within the last hour, or one of them."""
        return Query(self._sql(TASKS), lambda rows: [TaskHealth(*row) for row in rows], {"limit": limit, "task": task})

    def failures(self, limit: int) -> Query[list[Failures]]:
        """Group the newest dead letters by what their errors have in common."""
        params = {"most": MOST_FAILURES, "limit": limit, "hours": HOURS}
        return Query(self._sql(FAILURES), lambda rows: [Failures(*row) for row in rows], params)
