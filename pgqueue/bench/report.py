"""What the bench prints: progress on stderr while it works, then a table or JSON on stdout."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pgqueue.bench.cases import CASES
from pgqueue.bench.machine import Machine
from pgqueue.bench.measure import CaseResult, Measurement

TITLES = {case.name: case.title for case in CASES}


class ProgressDisplay:
    """Shows progress on stderr: a bar for the case that runs, a line for each that has ended."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, emoji=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._progress = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(escape(text), soft_wrap=True, highlight=False)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Show bars within this context."""
        with self._progress:
            yield

    @contextmanager
    def case(self, name: str) -> Iterator[Callable[[float, float], None]]:
        """Show a bar for a case; yields `progress(done, total)`, which moves it."""
        bar = self._progress.add_task(TITLES[name], total=None)
        try:
            yield lambda done, total: self._progress.update(bar, completed=done, total=total)
        finally:
            self._progress.remove_task(bar)

    def ended(self, result: CaseResult) -> None:
        """Print the measurements of a case in a line."""
        values = ", ".join(f"{_words(value.name)} {_number(value.value)} {value.unit}" for value in result.measurements)
        self.say(f"{TITLES[result.case]}: {values}")


def print_table(machine: Machine, results: Sequence[CaseResult]) -> None:
    """Print the measurements, and the machine they belong to."""
    console = Console(emoji=False, width=None if sys.stdout.isatty() else 120)
    table = Table(box=SIMPLE_HEAD, header_style="dim")
    for column in ("case", "measured", "value", "unit", "lowest to highest", "n"):
        table.add_column(column, justify="right" if column in ("value", "n") else "left", no_wrap=True)
    for result in results:
        for index, value in enumerate(result.measurements):
            first = (TITLES[result.case], f"{result.n:,}") if index == 0 else ("", "")
            table.add_row(first[0], _words(value.name), _number(value.value), value.unit, _spread(value), first[1])
    console.print(table, highlight=False)
    for result in results:
        for note in result.notes:
            console.print(f"{TITLES[result.case]}: {note}", highlight=False, soft_wrap=True)
    facts = [f"{_words(name)} {fact}" for name, fact in dataclasses.asdict(machine).items()]
    console.print(" · ".join(facts), highlight=False, soft_wrap=True)


def print_json(machine: Machine, results: Sequence[CaseResult], about: dict[str, Any]) -> None:
    """Print everything as one JSON object."""
    cases = {result.case: _plain(result) for result in results}
    json.dump(about | {"machine": dataclasses.asdict(machine), "cases": cases}, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _plain(result: CaseResult) -> dict[str, Any]:
    values = {
        value.name: {"value": round(value.value, 4), "unit": value.unit, "low": _rounded(value.low),
                     "high": _rounded(value.high)}
        for value in result.measurements
    }  # fmt: skip
    return {"n": result.n, "values": values, "notes": result.notes}


def _spread(value: Measurement) -> str:
    if value.low is None or value.high is None:
        return ""
    return f"{_number(value.low)} to {_number(value.high)}"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(number: float) -> str:
    """Return a number as people read it: without decimals from 100 on."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"
