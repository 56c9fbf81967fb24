"""Reading: one job, lists of jobs, the state of the whole."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from pgqueue.job import Attempt, Job, JobState
from pgqueue.outcome import ErrorInfo
from pgqueue.queries.base import Query, Row, Statements

_JOB: LiteralString = """
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
    _JOB
    + """,
    (select json_agg(json_build_array(a.attempt, a.started_at, a.ended_at, a.to_state, a.reason, a.error, a.worker_id)
                     order by a.lease)::text
     from {s}.attempt a where a.job_id = j.id)
from {s}.job j where j.id = %(id)s"""
)

# The newest jobs, filtered. `state` may be a phase. Each table is walked backwards from its highest id.
LIST_JOBS: LiteralString = (
    _JOB
    + """, null
from {s}.job j
where (%(state)s::text is null or j.phase = %(state)s or j.state = %(state)s)
and (%(queue)s::text is null or j.queue = %(queue)s)
and (%(task)s::text is null or j.task = %(task)s)
and (%(before)s::bigint is null or j.id < %(before)s)
order by j.id desc limit %(limit)s"""
)

# Counts for people, asked by hand and never on a timer: job_live is read once; of the finished ones the last hour.
COUNT_JOBS: LiteralString = """
select queue,
       count(*) filter (where state = 'pending' and run_at <= now() and attempt = 0),
       count(*) filter (where state = 'pending' and run_at > now() and attempt = 0),
       count(*) filter (where state = 'pending' and attempt > 0),
       count(*) filter (where state = 'running'),
       count(*) filter (where state = 'blocked'),
       (select count(*) from {s}.dead_letter d where d.queue = live.queue),
       extract(epoch from now() - min(run_at) filter (where state = 'pending' and run_at <= now()))::float8,
       (select count(*) from {s}.worker w where w.lost_at is null and live.queue = any(w.queues)),
       exists (select from {s}.queue q where q.name = live.queue and q.paused_at is not null)
from (select queue, state, run_at, attempt from {s}.job_live
      union all select distinct queue, 'failed', null::timestamptz, 0 from {s}.dead_letter) as live
group by queue order by queue"""

COUNT_FINISHED: LiteralString = """
select state, count(*) from {s}.job_finished where finished_at > now() - interval '1 hour' group by state
union all
select 'failed', count(*) from {s}.dead_letter where failed_at > now() - interval '1 hour' having count(*) > 0"""

LIST_WORKERS: LiteralString = """
select w.id, w.kind, w.host, w.pid, w.version, w.queues, w.slots,
       (select count(*) from {s}.job_live j where j.worker_id = w.id)::int,
       case when w.lost_at is not null then 'lost' when w.stopping then 'stopping' else 'alive' end,
       extract(epoch from now() - w.heartbeat_at)::float8, w.started_at, w.death, w.duties
from {s}.worker w order by w.kind, w.started_at"""

# Jobs that wait for a worker that knows their task (job_live_parked), and whether one lives.
LIST_UNKNOWN_TASKS: LiteralString = """
select j.task, j.queue, count(*),
       exists (select from {s}.worker w where w.lost_at is null and j.task = any(w.tasks) and j.queue = any(w.queues))
from {s}.job_live j where j.state = 'blocked' and j.waits_for = 'task'
group by j.task, j.queue order by j.task, j.queue"""

# Schedules with the last of their ticks, by the key (schedule, tick).
LIST_SCHEDULES: LiteralString = """
select s.name, s.task, coalesce(s.cron, 'every ' || s.every_seconds || ' s'), s.timezone, s.next_tick, s.paused_at,
       f.tick, f.outcome,
       (select count(*) from {s}.schedule_fire m where m.schedule = s.name and m.outcome = 'missed'
        and m.tick > now() - interval '1 day')::int
from {s}.schedule s
left join lateral (select f.tick, f.outcome from {s}.schedule_fire f where f.schedule = s.name
                   order by f.tick desc limit 1) as f on true
order by s.name"""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many jobs a queue holds, by phase; for how long the oldest due one has waited, in seconds; and how many
    living workers serve it."""

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
    """Jobs parked because a worker did not know their task, and whether a living worker knows it and will take them."""

    task: str
    queue: str
    jobs: int
    known_to_a_worker: bool


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """A schedule with its next tick, what became of the last one, and how many were missed within a day."""

    name: str
    task: str
    plan: str
    timezone: str
    next_tick: datetime
    paused_at: datetime | None
    last_tick: datetime | None
    last_outcome: str | None
    missed: int


def _error(value: dict[str, Any] | None) -> ErrorInfo | None:
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
        _error(error),
        worker and UUID(worker),
    )


def _value(text: str | None) -> Any:
    """Read JSON; where Python cannot (nested thousands deep, numbers of thousands of digits) the text must do."""
    try:
        return None if text is None else json.loads(text)
    except (RecursionError, ValueError):
        return text


def _job(row: Row) -> Job:
    values = dict(zip(_JOB_FIELDS, row, strict=True))
    values["state"] = JobState(values["state"])
    values["args"] = _value(values["args"])
    values["tags"] = tuple(values["tags"])
    values["result"] = _value(values["result"])
    values["progress"] = _value(values["progress"])
    values["error"] = _error(values["error"] and json.loads(values["error"]))
    values["attempts"] = tuple(_attempt(value) for value in json.loads(values["attempts"] or "[]"))
    return Job(**values)


class ReadQueries(Statements):
    """Reading, for the API and for operators."""

    def get_job(self, job_id: int) -> Query[Job | None]:
        """One job with its attempts."""
        return Query(self._sql(GET_JOB), lambda rows: _job(rows[0]) if rows else None, {"id": job_id})

    def list_jobs(
        self, *, state: str | None, queue: str | None, task: str | None, before: int | None, limit: int
    ) -> Query[list[Job]]:
        """The newest jobs, without their attempts."""
        params = {"state": state, "queue": queue, "task": task, "before": before, "limit": limit}
        return Query(self._sql(LIST_JOBS), lambda rows: [_job(row) for row in rows], params)

    def count_jobs(self) -> Query[list[QueueCounts]]:
        """Jobs by queue and phase."""
        return Query(self._sql(COUNT_JOBS), lambda rows: [QueueCounts(*row) for row in rows])

    def count_finished(self) -> Query[dict[str, int]]:
        """Jobs that ended within the last hour, by state."""
        return Query(self._sql(COUNT_FINISHED), lambda rows: {row[0]: row[1] for row in rows})

    def list_workers(self) -> Query[list[WorkerStatus]]:
        """Workers and schedulers."""
        return Query(self._sql(LIST_WORKERS), lambda rows: [WorkerStatus(*row) for row in rows])

    def list_unknown_tasks(self) -> Query[list[UnknownTaskJobs]]:
        """Jobs that wait for a worker that knows their task."""
        return Query(self._sql(LIST_UNKNOWN_TASKS), lambda rows: [UnknownTaskJobs(*row) for row in rows])

    def list_schedules(self) -> Query[list[ScheduleStatus]]:
        """Schedules."""
        return Query(self._sql(LIST_SCHEDULES), lambda rows: [ScheduleStatus(*row) for row in rows])
