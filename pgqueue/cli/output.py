"""What commands print: tables for people, JSON for programs."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Job
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


def print_id(job: Job) -> None:
    """Print the id of a job and nothing else, for scripts."""
    sys.stdout.write(f"{job.id}\n")


def print_json(value: Any) -> None:
    """Print JSON: objects as their fields, times in ISO 8601."""
    json.dump(value, sys.stdout, default=_plain, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, or one line if it has no rows."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    for column in columns:
        # Columns that identify a row are never wrapped; columns that explain it are folded.
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "attempt", "run at", "failed at", "phase"))
    for row in rows:
        table.add_row(*(escape(cell(value)) for value in row))
    console.print(table if table.row_count else f"{title}: none", highlight=False)


def print_facts(title: str, facts: Mapping[str, object]) -> None:
    """Print the fields of one thing as a table, a row each."""
    print_table(title, ("what", "value"), ((name.replace("_", " "), value) for name, value in facts.items()))


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


def age(seconds: float | None) -> str:
    """Return a duration in its two largest units: 4m31s."""
    if seconds is None:
        return ""
    whole = int(max(seconds, 0))
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    first = next((index for index, (number, _) in enumerate(parts) if number), 3)
    return "".join(f"{number}{unit}" for number, unit in parts[first : first + 2])
