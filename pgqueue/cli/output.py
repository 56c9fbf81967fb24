"""What commands print: tables for people, JSON for programs."""

import dataclasses
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Job
from pgqueue.printable import printable, printable_json
from pgqueue.tasks.sealing import sealed_by
from pgqueue.timing import in_words

WHOLE = frozenset({"id", "attempt", "run at", "failed at", "phase"})  # columns that are never wrapped
UNBOUNDED = 10_000  # columns in which any table fits
PIPED_WIDTH = 200  # a file or a pipe has no width; 80 columns would fold most rows


class SafeConsole(Console):
    """A console on which text is text: no markup, no emoji, nothing that acts on the terminal.

    Rich makes every string that it prints, also titles and cells of tables, a Text by `render_str`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as Rich prints it."""
        return super().render_str(printable(text), **options)


console = SafeConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH)
stderr = SafeConsole(stderr=True)


def complain(error: object) -> None:
    """Print an error on stderr."""
    stderr.print("error: ", style="bold red", end="")
    stderr.print(str(error), soft_wrap=True)


def say(text: str) -> None:
    """Print a line for people on stderr: stdout is for data."""
    stderr.print(text, soft_wrap=True)


def print_id(job: Job) -> None:
    """Print the id of a job and nothing else, for scripts."""
    sys.stdout.write(f"{job.id}\n")


def print_json(value: Any) -> None:
    """Print JSON: objects as their fields, times in ISO 8601."""
    sys.stdout.write(printable_json(json.dumps(value, default=_plain, ensure_ascii=False, indent=2)) + "\n")


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of an object as `--json` prints them."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.repr}


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return fields_of(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, or one line if it has no rows."""
    console.print(table(title, columns, rows))


def line(text: str) -> Text:
    """Return a line of text that is safe for terminals."""
    return console.render_str(text)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    whole: Collection[str] = WHOLE,
    tight: bool = False,
) -> RenderableType:
    """Return a table, or one line if it has no rows. The columns that identify a row, `whole`, are never wrapped; those
    that explain it are folded. A `tight` one has less room between its columns."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    made.collapse_padding = tight
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        made.add_row(*map(cell, row))
    return made if made.row_count else line(f"{title}: none")


def fits(made: RenderableType) -> bool:
    """Whether the console is wide enough for a table, so that no cell of it is folded."""
    return console.measure(made, options=console.options.update(width=UNBOUNDED)).maximum <= console.width


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
            return value.astimezone().isoformat(" ", "seconds")
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


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 job, 2 jobs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def age(seconds: float | None) -> str:
    """Return a duration in its two largest units: 4m31s."""
    return "" if seconds is None else in_words(int(max(seconds, 0)))
