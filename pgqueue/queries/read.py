"""Reading: one job, lists of jobs, the state of the whole."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Attempt, Job, JobState
from pgqueue.queries.base import Query, Row, Statements, nothing
from pgqueue.schedules.ticks import Tick
from pgqueue.tasks.sealing import open_job

MOST_COUNTED = 10_000

JOB: LiteralString = """
select j.id, j.task, j.queue, j.priority, j.state, j.phase, j.args::text, j.tags, j.run_at, j.created_at, j.attempt,
       j.max_attempts, j.crash_count, j.waits_for, j.claimed_at, j.finished_at, j.worker_id, j.reason, j.result::text,
       j.error::text, j.progress::text"""

_JOB_FIELDS = (
    "id", "task", "queue", "priority", "state", "phase", "args", "tags", "run_at", "created_at", "attempt",
    "max_attempts", "crash_count", "waits_for", "claimed_at", "finished_at", "worker_id", "reason", "result", "error",
    "progress", "attempts",
)  # fmt: skip

# One job with its attempts, in one snapshot: the view finds the job in whichever table holds it, by primary key; the
# attempts come from the log by transition_job.
GET_JOB: LiteralString = (
    JOB
    + """,
    (select json_agg(json_build_array(a.attempt, a.started_at, a.ended_at, a.to_state, a.reason, a.error, a.worker_id)
                     order by a.lease)::text
     from {s}.attempt a where a.job_id = j.id)
from {s}.job j where j.id = %(id)s"""
)

# The newest jobs, filtered. `state` may be a phase. Each table is walked backwards from its highest id.
LIST_JOBS: LiteralString = (
    JOB
    + """, null
from {s}.job j
where (%(state)s::text is null or j.phase = %(state)s or j.state = %(state)s)
and (%(queue)s::text is null or j.queue = %(queue)s)
and (%(task)s::text is null or j.task = %(task)s)
and (%(before)s::bigint is null or j.id < %(before)s)
order by j.id desc limit %(limit)s"""
)

# For the rest of a transaction: read in the order of an index, also where the statistics know nothing of the rows that
# came since. Else whole lanes are read and sorted, to count the first of them.
IN_INDEX_ORDER: LiteralString = """
select set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)"""

# Counts for people and for what they put on a timer: of each kind at most `most` rows and one more are looked at, so
# that it costs the same on any backlog. One more than `most` means: more than that. Null counts to the end.
# A lane is a queue and a priority: `lane` hops along job_live_ready from one to the next, and in each lane the due rows
# and those of the future are two ranges. Running rows come from job_live_running, parked ones from job_live_parked, the
# newest dead letters from dead_letter_failed_at; those three are cut off over all queues together.
# The naive form, one `group by` over job_live, takes a second on a backlog of a million.
COUNT_JOBS: LiteralString = """
with recursive waiting as not materialized (
    select queue, priority, run_at, id, attempt from {s}.job_live where state = 'pending'
), lane(queue, priority) as (
    (select j.queue, j.priority from waiting j order by j.queue, j.priority desc limit 1)
    union all
    select following.queue, following.priority from lane cross join lateral (
        (select j.queue, j.priority from waiting j where j.queue = lane.queue and j.priority < lane.priority
         order by j.queue, j.priority desc limit 1)
        union all
        (select j.queue, j.priority from waiting j where j.queue > lane.queue
         order by j.queue, j.priority desc limit 1)
        order by queue limit 1) as following
), served as materialized (select distinct queue from lane), sample(queue, kind, again) as materialized (
    select served.queue, 'due', due.attempt > 0 from served cross join lateral (
        select first.attempt from lane cross join lateral (
            select j.attempt from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
            order by j.run_at, j.id limit %(most)s::int + 1) as first
        where lane.queue = served.queue limit %(most)s::int + 1) as due
    union all
    select served.queue, 'later', later.attempt > 0 from served cross join lateral (
        select first.attempt from lane cross join lateral (
            select j.attempt from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at > now()
            order by j.run_at, j.id limit %(most)s::int + 1) as first
        where lane.queue = served.queue limit %(most)s::int + 1) as later
    union all
    (select queue, 'running', false from {s}.job_live where worker_id is not null
     order by worker_id limit %(most)s::int + 1)
    union all
    (select queue, 'blocked', false from {s}.job_live where state = 'blocked' and waits_for = 'task'
     order by task limit %(most)s::int + 1)
    union all
    (select queue, 'dead', false from {s}.dead_letter order by failed_at desc limit %(most)s::int + 1)
), found as (
    select queue, count(*) filter (where kind = 'due' and not again) as pending,
           count(*) filter (where kind = 'later' and not again) as scheduled,
           count(*) filter (where again) as retrying,
           count(*) filter (where kind = 'running') as running,
           count(*) filter (where kind = 'blocked') as blocked,
           count(*) filter (where kind = 'dead') as dead,
           count(*) filter (where kind = 'due') > %(most)s::int as more_due,
           count(*) filter (where kind = 'later') > %(most)s::int as more_later
    from sample group by queue
)
select queue, pending, scheduled, retrying, running, blocked, dead,
       (select extract(epoch from now() - min(oldest.run_at))::float8 from lane cross join lateral (
            select j.run_at from waiting j
            where j.queue = lane.queue and j.priority = lane.priority and j.run_at <= now()
            order by j.run_at limit 1) as oldest
        where lane.queue = found.queue),
       (select count(*) from {s}.worker w where w.lost_at is null and found.queue = any(w.queues)),
       exists (select from {s}.queue q where q.name = found.queue and q.paused_at is not null),
       array_remove(array[
           case when more_due then 'pending' end,
           case when more_later then 'scheduled' end,
           case when more_due or more_later then 'retrying' end,
           case when sum(running) over () > %(most)s::int then 'running' end,
           case when sum(blocked) over () > %(most)s::int then 'blocked' end,
           case when sum(dead) over () > %(most)s::int then 'dead' end], null)
from found order by queue"""

# What ended within the last hour, of the newest `most` of each table: by primary key and by dead_letter_failed_at. No
# index has finished_at. A job that waited for long and has ended lately has an old id: beyond `most` it may be missed.
COUNT_FINISHED: LiteralString = """
select state, count(*), coalesce(sum(count(*)) over () > %(most)s::int, false)
from (select state, finished_at from {s}.job_finished order by id desc limit %(most)s::int + 1) as newest
where finished_at > now() - interval '1 hour' group by state
union all
select 'failed', count(*), coalesce(count(*) > %(most)s::int, false) from (
    select from {s}.dead_letter where failed_at > now() - interval '1 hour'
    order by failed_at desc limit %(most)s::int + 1) as newest
having count(*) > 0"""

LIST_WORKERS: LiteralString = """
select w.id, w.kind, w.host, w.pid, w.version, w.queues, w.slots,
       (select count(*) from {s}.job_live j where j.worker_id = w.id)::int,
       case when w.lost_at is not null then 'lost' when w.stopping then 'stopping' else 'alive' end,
       extract(epoch from now() - w.heartbeat_at)::float8, w.started_at, w.death, w.duties
from {s}.worker w order by w.kind, w.started_at"""

# Jobs that wait for a worker that knows their task in their version, and whether one lives. Hops along job_live_parked
# from one task, version and queue to the next, and counts at most `most` and one of each.
LIST_UNKNOWN_TASKS: LiteralString = """
with recursive parked(task, version, queue) as (
    (select j.task, coalesce(j.headers ->> '$version', '1'), j.queue from {s}.job_live j
     where j.state = 'blocked' and j.waits_for = 'task'
     order by j.task, coalesce(j.headers ->> '$version', '1'), j.queue limit 1)
    union all
    select following.task, following.version, following.queue from parked cross join lateral (
        select j.task, coalesce(j.headers ->> '$version', '1') as version, j.queue from {s}.job_live j
        where j.state = 'blocked' and j.waits_for = 'task'
        and (j.task, coalesce(j.headers ->> '$version', '1'), j.queue) > (parked.task, parked.version, parked.queue)
        order by j.task, coalesce(j.headers ->> '$version', '1'), j.queue limit 1) as following
)
select p.task, p.queue, few.jobs,
       exists (select from {s}.worker w
               where w.lost_at is null and p.queue = any(w.queues)
               and case p.version when '1' then p.task else p.task || '@' || p.version end = any(w.tasks)),
       coalesce(few.jobs > %(most)s::int, false), p.version
from parked p cross join lateral (
    select count(*) as jobs from (
        select from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'task' and j.task = p.task
        and coalesce(j.headers ->> '$version', '1') = p.version and j.queue = p.queue
        limit %(most)s::int + 1) as counted
) as few order by p.task, p.version, p.queue"""

_SCHEDULE_FIELDS: LiteralString = (
    "name, task, plan, timezone, state, next_tick, lag_seconds, last_tick, last_outcome, last_reason, last_job_id, "
    "last_lag_seconds, fired_in_a_day, missed_in_a_day, skipped_in_a_day, queued, misfire, grace_seconds, overlap, "
    "max_running, paused_at, paused_by, paused_until, disabled_at, app, edited_at, edited_by, error"
)

# Schedules by name, a page at a time, with the last of their ticks and what a day brought, by the key (schedule, tick).
LIST_SCHEDULES: LiteralString = (
    "select "
    + _SCHEDULE_FIELDS
    + """ from {s}.schedule_status
where (%(name)s::text is null or name = %(name)s) and (%(after)s::text is null or name > %(after)s)
order by name limit %(limit)s"""
)

# The newest ticks of a schedule, by the key (schedule, tick) backwards. With `schedule = …` the planner, while it has
# no statistics, takes all ticks of a schedule for a few, reads and sorts them; a range it reads in the key's order.
LIST_TICKS: LiteralString = """
select schedule, tick, outcome, reason, job_id, by from {s}.schedule_fire
where schedule >= %(name)s and (schedule, tick) < (%(name)s, coalesce(%(before)s::timestamptz, 'infinity'))
order by schedule desc, tick desc limit %(limit)s"""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many jobs a queue holds, by phase; for how long the oldest due one has waited, in seconds; and how many
    living workers serve it. `at_least`: the phases of which it holds more than was counted."""

    queue: str
    pending: int
    scheduled: int
    retrying: int
    running: int
    blocked: int
    dead: int
    oldest_due_seconds: float | None
    workers: int
    paused: bool
    at_least: list[str]


class Ended(NamedTuple):
    """How many jobs ended in a state; `at_least` if there may be more than was counted."""

    state: str
    jobs: int
    at_least: bool


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker or scheduler as its row has it. `duties`: at its last beat, how many seconds ago each last worked; None
    for one that had nothing to do yet. `death`: how it ended, if its supervisor saw it."""

    id: UUID
    kind: str
    host: str
    pid: int
    version: str
    queues: list[str]
    slots: int
    running: int
    status: str
    heartbeat_age_seconds: float
    started_at: datetime
    death: str | None
    duties: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class UnknownTaskJobs:
    """Jobs parked because a worker did not know their task in their version, and whether a living worker knows it and
    will take them."""

    task: str
    queue: str
    jobs: int
    known_to_a_worker: bool
    at_least: bool
    version: str


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule as the view schedule_status has it. `state` is active, paused, disabled (the code dropped it), over,
    or broken (`error` says why). `lag_seconds`: by how much its next tick is late now; `last_lag_seconds`: by how
    much the last one was."""

    name: str
    task: str
    plan: str
    timezone: str
    state: str
    next_tick: datetime | None
    lag_seconds: float | None
    last_tick: datetime | None
    last_outcome: str | None
    last_reason: str | None
    last_job_id: int | None
    last_lag_seconds: float | None
    fired_in_a_day: int
    missed_in_a_day: int
    skipped_in_a_day: int
    queued: int
    misfire: str
    grace_seconds: float | None
    overlap: str
    max_running: int | None
    paused_at: datetime | None
    paused_by: str | None
    paused_until: datetime | None
    disabled_at: datetime | None
    app: str | None
    edited_at: datetime | None
    edited_by: str | None
    error: str | None


def read_error(value: dict[str, Any] | None) -> ErrorInfo | None:
    """Read an error as it is stored."""
    if value is None:
        return None
    return ErrorInfo(value.get("type", ""), value.get("message", ""), value.get("traceback"))


def _attempt(value: Sequence[Any]) -> Attempt:
    number, started, ended, state, reason, error, worker = value
    return Attempt(
        number,
        datetime.fromisoformat(started),
        ended and datetime.fromisoformat(ended),
        state and JobState(state),
        reason,
        read_error(error),
        worker and UUID(worker),
    )


def _value(text: str | None) -> Any:
    """Read JSON; where Python cannot (nested thousands deep, numbers of thousands of digits) the text must do."""
    try:
        return None if text is None else json.loads(text)
    except (RecursionError, ValueError):
        return text


def read_job(row: Row) -> Job:
    """Read a row of JOB and the attempts."""
    values = dict(zip(_JOB_FIELDS, row, strict=True))
    values["state"] = JobState(values["state"])
    values["args"] = _value(values["args"])
    values["tags"] = tuple(values["tags"])
    values["result"] = _value(values["result"])
    values["progress"] = _value(values["progress"])
    values["error"] = read_error(values["error"] and json.loads(values["error"]))
    values["attempts"] = tuple(_attempt(value) for value in json.loads(values["attempts"] or "[]"))
    return Job(**values)


class ReadQueries(Statements):
    """Reading, for the API and for operators."""

    def _job(self, row: Row) -> Job:
        """A job of whichever query selects `JOB`, opened as far as our codec can."""
        return read_job(row) if self.codec is None else open_job(self.codec, read_job(row))

    def get_job(self, job_id: int) -> Query[Job | None]:
        """One job with its attempts."""
        return Query(self._sql(GET_JOB), lambda rows: self._job(rows[0]) if rows else None, {"id": job_id})

    def list_jobs(
        self, *, state: str | None, queue: str | None, task: str | None, before: int | None, limit: int
    ) -> Query[list[Job]]:
        """The newest jobs, without their attempts."""
        params = {"state": state, "queue": queue, "task": task, "before": before, "limit": limit}
        return Query(self._sql(LIST_JOBS), lambda rows: [self._job(row) for row in rows], params)

    def in_index_order(self) -> Query[None]:
        """Make what follows in this transaction stop where it has counted enough, whatever the statistics say."""
        return Query(self._sql(IN_INDEX_ORDER), nothing)

    def count_jobs(self, most: int | None = MOST_COUNTED) -> Query[list[QueueCounts]]:
        """Jobs by queue and phase: of each to `most` and one more, or all of them."""
        return Query(self._sql(COUNT_JOBS), lambda rows: [QueueCounts(*row) for row in rows], {"most": most})

    def count_finished(self, most: int | None = MOST_COUNTED) -> Query[list[Ended]]:
        """Jobs that ended within the last hour, by state, of the newest `most`."""
        return Query(self._sql(COUNT_FINISHED), lambda rows: [Ended(*row) for row in rows], {"most": most})

    def list_unknown_tasks(self, most: int | None = MOST_COUNTED) -> Query[list[UnknownTaskJobs]]:
        """Jobs that wait for a worker that knows their task: of each to `most` and one more, or all of them."""
        return Query(
            self._sql(LIST_UNKNOWN_TASKS), lambda rows: [UnknownTaskJobs(*row) for row in rows], {"most": most}
        )


class WorkerReadQueries(Statements):
    """Reading workers, for operators."""

    def list_workers(self) -> Query[list[WorkerStatus]]:
        """Workers and schedulers."""
        return Query(self._sql(LIST_WORKERS), lambda rows: [WorkerStatus(*row) for row in rows])


class ScheduleReadQueries(Statements):
    """Reading schedules and their ticks."""

    def list_schedules(
        self, name: str | None = None, after: str | None = None, limit: int = 1000
    ) -> Query[list[ScheduleStatus]]:
        """Schedules in the order of their names, `after` one of them; or the one called `name`."""
        params = {"name": name, "after": after, "limit": limit}
        return Query(self._sql(LIST_SCHEDULES), lambda rows: [ScheduleStatus(*row) for row in rows], params)

    def list_ticks(self, name: str, limit: int = 20, before: datetime | None = None) -> Query[list[Tick]]:
        """The newest ticks of a schedule."""
        params = {"name": name, "limit": limit, "before": before}
        return Query(self._sql(LIST_TICKS), lambda rows: [Tick(*row) for row in rows], params)
