"""What commands print: tables for people, JSON for programs."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgqueue.cli.status import Status
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Attempt, Job
from pgqueue.queries.read import MOST_COUNTED, QueueCounts, ScheduleStatus, UnknownTaskJobs, WorkerStatus
from pgqueue.tasks.sealing import sealed_by

PIPED_WIDTH = 200  # a file or a pipe has no width; 80 columns would fold most rows

console = Console(emoji=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
stderr = Console(emoji=False, stderr=True)


def complain(error: object) -> None:
    """Print an error on stderr."""
    stderr.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print a line for people on stderr: stdout is for data."""
    stderr.print(escape(text), soft_wrap=True, highlight=False)


def print_json(value: Any) -> None:
    """Print JSON: dataclasses as objects, times in ISO 8601."""
    json.dump(value, sys.stdout, default=_plain, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def _plain(value: object) -> Any:
    if isinstance(value, Status):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    return value.isoformat() if isinstance(value, datetime) else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; nothing but a line where it has no rows."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    for column in columns:
        # What identifies a row is never cut; what explains it is folded.
        shown.add_column(column, overflow="fold", no_wrap=column in ("id", "attempt", "run at", "failed at", "phase"))
    for row in rows:
        shown.add_row(*(escape(cell(value)) for value in row))
    console.print(shown if shown.row_count else f"{title}: none", highlight=False)


def cell(value: object) -> str:
    """Return a value as a table shows it."""
    if (sealed := sealed_by(value)) is not None:
        return sealed
    match value:
        case None:
            return ""
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:.1f}"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(str(item) for item in value)
        case dict():
            return json.dumps(value, ensure_ascii=False)
        case ErrorInfo():
            return f"{value.type}: {cell(value.message)}"
        case _:
            return str(value)


def print_jobs(title: str, jobs: Sequence[Job]) -> None:
    """Print jobs, one a line."""
    rows = [(j.id, j.task, j.queue, j.phase, f"{j.attempt}/{j.max_attempts}", j.run_at, _why(j)) for j in jobs]
    table(title, ("id", "task", "queue", "phase", "attempt", "run at", "why"), rows)


def print_dead(jobs: Sequence[Job]) -> None:
    """Print dead letters, one a line."""
    rows = [(j.id, j.task, j.queue, j.attempt, j.finished_at, j.reason, cell(j.error)) for j in jobs]
    table("dead letters", ("id", "task", "queue", "attempts", "failed at", "reason", "error"), rows)


def print_job(job: Job) -> None:
    """Print one job with its attempts."""
    names = ["task", "queue", "priority", "phase", "args", "tags", "created_at", "run_at"]
    more = ("crash_count", "waits_for", "finished_at", "reason", "result", "error")
    facts = {name: getattr(job, name) for name in names}
    facts["attempt"] = f"{job.attempt} of {job.max_attempts}"
    facts |= {name: getattr(job, name) for name in more if getattr(job, name)}
    table(f"job {job.id}", ("what", "value"), ((name.replace("_", " "), value) for name, value in facts.items()))
    table("attempts", ("attempt", "started at", "took", "then", "why", "error"), map(_attempt, job.attempts))
    failed = [attempt for attempt in job.attempts if attempt.error and attempt.error.traceback]
    if failed and failed[-1].error:
        console.print(f"traceback of attempt {failed[-1].number}", style="bold")
        console.print(failed[-1].error.traceback, markup=False, highlight=False)


def count(jobs: int, at_least: bool) -> str:
    """Return a count as people see it: 10000+ for one that was not counted to its end."""
    return f"{min(jobs, MOST_COUNTED)}+" if at_least else str(jobs)


def print_status(status: Status) -> None:
    """Print the state of one schema."""
    print_queues(status.queues)
    print_workers(status.workers)
    print_schedules(status.schedules)
    print_unknown_tasks(status.unknown)
    ended = ", ".join(f"{count(e.jobs, e.at_least)} {e.state}" for e in sorted(status.ended)) or "none"
    console.print(f"ended within the last hour: {ended}", highlight=False)


def print_queues(queues: Sequence[QueueCounts]) -> None:
    """Print queues; a queue with due jobs that nobody serves stands out."""
    columns = ("queue", "pending", "scheduled", "retrying", "running", "blocked", "dead", "waits", "workers")
    rows = []
    for q in queues:
        workers = "paused" if q.paused else q.workers or ("NONE" if q.pending + q.retrying else 0)
        phases = ("pending", "scheduled", "retrying", "running", "blocked", "dead")
        counts = [count(getattr(q, phase), phase in q.at_least) for phase in phases]
        rows.append((q.queue, *counts, _age(q.oldest_due_seconds), workers))
    table("queues", columns, rows)


def print_workers(workers: Sequence[WorkerStatus]) -> None:
    """Print workers and schedulers."""
    rows = [
        (str(w.id)[:8], w.kind, f"{w.host}:{w.pid}", w.queues, f"{w.running}/{w.slots}", w.death or w.status,
         _age(w.heartbeat_age_seconds), _duties(w.duties))
        for w in workers
    ]  # fmt: skip
    table(
        "workers", ("id", "kind", "process", "queues", "running", "status", "last beat", "each duty last worked"), rows
    )


def print_schedules(schedules: Sequence[ScheduleStatus]) -> None:
    """Print schedules."""
    rows = [
        (s.name, s.plan, s.timezone, s.state if s.state != "active" else s.next_tick, _age(s.lag_seconds or None),
         s.last_tick, s.last_outcome, s.missed_in_a_day)
        for s in schedules
    ]  # fmt: skip
    columns = ("name", "plan", "timezone", "next tick", "late by", "last tick", "outcome", "missed in a day")
    table("schedules", columns, rows)


def print_unknown_tasks(unknown: Sequence[UnknownTaskJobs]) -> None:
    """Print what waits for a worker that knows its task; nothing where nothing waits."""
    if unknown:
        rows = [
            (u.task, u.version, u.queue, count(u.jobs, u.at_least), "yes" if u.known_to_a_worker else "NO")
            for u in unknown
        ]
        columns = ("task", "version", "queue", "jobs", "one lives")
        table("jobs that wait for a worker that knows their task", columns, rows)


def _duties(duties: dict[str, float | None]) -> str:
    """Return how long ago each duty last worked, as of the last beat."""
    return ", ".join(f"{name} {_age(seconds)}" for name, seconds in duties.items() if seconds is not None)


def _age(seconds: float | None) -> str:
    """Return a duration in its two largest units: 4m31s."""
    if seconds is None:
        return ""
    whole = int(max(seconds, 0))
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return "".join(f"{number}{unit}" for number, unit in parts[first : first + 2])


def _attempt(attempt: Attempt) -> tuple[object, ...]:
    took = f"{(attempt.ended_at - attempt.started_at).total_seconds():.3f} s" if attempt.ended_at else "runs"
    return attempt.number, attempt.started_at, took, attempt.state, attempt.reason, cell(attempt.error)


def _why(job: Job) -> str:
    if job.waits_for:
        return f"waits for a worker that knows {job.task}"
    reason, error = cell(job.reason), cell(job.error)
    return f"{reason}: {error}" if reason and error else reason or error
