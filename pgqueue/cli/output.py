"""What commands print: tables for people, JSON for programs."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgqueue.job import Attempt, Job
from pgqueue.outcome import ErrorInfo

PIPED_WIDTH = 200  # a file or a pipe has no width; 80 columns would fold most rows

console = Console(emoji=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
stderr = Console(emoji=False, stderr=True)


def complain(error: Exception) -> None:
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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value.isoformat() if isinstance(value, datetime) else str(value)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; nothing but a line where it has no rows."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(escape(cell(value)) for value in row))
    console.print(shown if shown.row_count else f"{title}: none", highlight=False)


def cell(value: object) -> str:
    """Return a value as a table shows it."""
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
            return f"{value.type}: {value.message}"
        case _:
            return str(value)


def print_jobs(title: str, jobs: Sequence[Job]) -> None:
    """Print jobs, one a line."""
    columns = ("id", "task", "queue", "phase", "attempt", "run at", "finished at", "why")
    rows = [
        (j.id, j.task, j.queue, j.phase, f"{j.attempt}/{j.max_attempts}", j.run_at, j.finished_at, _why(j))
        for j in jobs
    ]
    table(title, columns, rows)


def print_job(job: Job) -> None:
    """Print one job with its attempts."""
    facts = {name: getattr(job, name) for name in ("task", "queue", "priority", "phase", "args", "tags", "run_at")}
    facts |= {"created_at": job.created_at, "attempt": f"{job.attempt} of {job.max_attempts}"}
    more = ("crash_count", "waits_for", "worker_id", "finished_at", "reason", "result", "error")
    facts |= {name: getattr(job, name) for name in more if getattr(job, name)}
    table(f"job {job.id}", ("", ""), facts.items())
    table("attempts", ("attempt", "started at", "ended at", "state", "how", "error"), map(_attempt, job.attempts))
    if job.errors and job.errors[-1].traceback:
        console.print(job.errors[-1].traceback, markup=False, highlight=False)


def _attempt(attempt: Attempt) -> tuple[object, ...]:
    return attempt.number, attempt.started_at, attempt.ended_at, attempt.state, attempt.reason, attempt.error


def _why(job: Job) -> str:
    if job.waits_for:
        return f"waits for its {job.waits_for}"
    error = cell(job.error)
    return f"{job.reason}: {error}" if job.reason and error else job.reason or error
