"""What commands print: tables for people, JSON for programs."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pgqueue.cli.layout import Layout, filled, lay_out
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Job
from pgqueue.printable import printable, printable_json
from pgqueue.tasks.sealing import sealed_by
from pgqueue.timing import in_words

UNBOUNDED = 100_000  # columns of a file or a pipe: nothing is cut or folded there


class SafeConsole(Console):
    """A console on which text is text: no markup, no emoji, nothing that acts on the terminal.

    Rich makes every string that it prints, also titles and cells of tables, a Text by `render_str`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as Rich prints it."""
        return super().render_str(printable(text), **options)


console = SafeConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNBOUNDED)
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


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str] = ()
) -> None:
    """Print a table, or one line if it has no rows."""
    console.print(table(title, columns, rows, spare=spare))


def line(text: str) -> Text:
    """Return a line of text that is safe for terminals."""
    return console.render_str(text)


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str] = ()
) -> RenderableType:
    """Return a table, or one line if it has no rows.

    On a narrow terminal explaining texts are shortened, then the columns in `spare` are left out, the first one first;
    where that does not help, each row is a block of lines. A pipe gets all of it.
    """
    given = list(rows)
    if not given:
        return line(f"{title}: none")
    plain, brief = _texts(given, cell), _texts(given, _brief)
    made = lay_out(columns, plain, brief, console.width, spare)
    return _grid(title, made) if made.fits else _blocks(title, columns, brief)


def two_lines(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], pairs: Mapping[str, str]
) -> RenderableType:
    """Return a table as `table` does; where it is too wide, with one column below another for each of these pairs, and
    with explaining texts on several lines."""
    texts = _texts(rows, cell)
    made = Layout(columns, texts, is_tight=True)
    if made.rows and not made.fitting(console.width):
        made = made.paired(pairs).wrapped(console.width)
    return _grid(title, made) if made.rows and made.fitting(console.width) else table(title, columns, rows)


def _texts(rows: Iterable[Sequence[object]], text: Callable[[object], str]) -> list[list[str]]:
    return [[printable(text(value)) for value in row] for row in rows]


def _grid(title: str, made: Layout) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    shown.collapse_padding = made.is_tight
    for column in made.columns:
        shown.add_column(column, no_wrap=True, overflow="ignore")
    for row in made.rows:
        shown.add_row(*row)
    if made.left_out:
        shown.caption = f"not shown: {', '.join(made.left_out)}"
        shown.caption_justify = "left"
    return shown


def _blocks(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """Return each row as a block of lines with names and values: no row is cut, however narrow the terminal is."""
    shown = Table.grid()
    shown.title, shown.title_justify, shown.title_style = title, "left", "bold"
    shown.add_column(overflow="fold")
    for row in rows:
        parts = [f"{name} {text}" for name, text in zip(columns, row, strict=True) if text]
        shown.add_row("\n   ".join(filled(parts, console.width - 3)))
    return shown


def _brief(value: object) -> str:
    """Return a value as `cell` does, a time without its zone, and without its date if that is today."""
    if not isinstance(value, datetime):
        return cell(value)
    here = value.astimezone()
    return f"{here:%H:%M:%S}" if here.date() == datetime.now().astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def print_facts(title: str, facts: Mapping[str, object], origins: Mapping[str, str] | None = None) -> None:
    """Print the fields of one thing as a table, a row each; `origins`: from where each has its value."""
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD)
    shown.add_column("what", no_wrap=True)
    shown.add_column("value", overflow="fold")  # at spaces, where words are shorter than the terminal is wide
    if origins is not None:
        shown.add_column("from", no_wrap=True)
    for name, value in facts.items():
        shown.add_row(name.replace("_", " "), cell(value), *(() if origins is None else (origins.get(name, ""),)))
    console.print(shown)


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
