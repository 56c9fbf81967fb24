"""`pgqueue check-celery`: what a code base for Celery has that moves, differs or must be changed."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgqueue.cli import output

if TYPE_CHECKING:
    from pgqueue.celery.checking import Finding, Review

_TITLES = {"change": "has no place: change it", "differs": "changes its meaning: read it", "moves": "moves as it is"}


class Level(StrEnum):
    """From which kind of findings on the command fails."""

    CHANGE = "change"
    DIFFERS = "differs"


Where = Annotated[Path, typer.Argument(help="A directory with Python code, or one file.", show_default=False)]
From = Annotated[Level, typer.Option("--exit-code", help="From which kind on findings make the exit code 1.")]
All = Annotated[bool, typer.Option("--all", help="List what moves as it is, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_celery(path: Where, level: From = Level.CHANGE, everything: All = False, as_json: AsJson = False) -> None:
    """Read a code base for Celery, without running it, and list what moves to pgqueue.celery and what does not.

    By file and line: what has no place, with the remedy; what changes its meaning, such as a .delay() in a transaction;
    and with --all what moves as it is. Exits with 1 if anything has no place. docs/moving-from-celery.md has more.
    """
    from pgqueue.celery.checking import review  # other commands need nothing of Celery's

    found = review(path)
    if as_json:
        sys.stdout.write(
            json.dumps({"files": found.files, "findings": [asdict(each) for each in found.findings]}) + "\n"
        )
    else:
        _print(found, everything)
    order = list(_TITLES)
    if any(order.index(each.kind) <= order.index(level) for each in found.findings):
        raise typer.Exit(1)


def _print(found: "Review", everything: bool) -> None:
    for kind, title in _TITLES.items():
        findings = [each for each in found.findings if each.kind == kind]
        if findings and (everything or kind != "moves"):
            output.console.print(title, style="bold")
            for each in findings:
                _print_one(each)
    kinds = [str(each.kind) for each in found.findings]
    counts = f"{kinds.count('moves')} move, {kinds.count('differs')} differ, {kinds.count('change')} to change"
    output.console.print(f"{found.files} files: {counts}")


def _print_one(finding: "Finding") -> None:
    output.console.print(f"  {finding.path}:{finding.line}: {finding.id}: {finding.what}", soft_wrap=True)
    if finding.remedy:
        output.console.print(f"    {finding.remedy}", soft_wrap=True, style="cyan")
