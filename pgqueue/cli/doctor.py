"""`pgqueue doctor`: what hurts the queue, and what to do about it."""

from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.doctor import Finding, Report, Severity

TITLES = {Severity.ERROR: "errors", Severity.WARN: "warnings", Severity.INFO: "good to know"}

Only = Annotated[list[str] | None, typer.Option("--only", help="Only findings with this id. May be repeated.")]
Level = Annotated[Severity, typer.Option("--exit-code", help="From which severity on findings make the exit code 1.")]


def doctor(call: Call, only: Only = None, level: Level = Severity.WARN) -> Report:
    """Look for what hurts the queue, in the database, the processes and the tasks, and say what to do about it.

    Writes nothing. With -A it looks at the tasks of the app, too. Exits with 1 if it finds something. docs/doctor.md
    explains every finding.
    """
    report = call.app.doctor(only=only or ())
    call.exit_code = int(bool(report.at_least(level)))
    return report


def print_report(report: Report) -> None:
    """Print what was found, the worst first; each remedy on a line of its own, as it can be pasted."""
    for severity, title in TITLES.items():
        if found := report.of(severity):
            output.console.print(title, style="bold")
            for finding in found:
                _print(finding)
    counts = [f"{len(of)} {title}" for severity, title in TITLES.items() if (of := report.of(severity))]
    output.console.print(f"{report.checks} checks, {', '.join(counts) or 'nothing found'}")


def _print(finding: Finding) -> None:
    since = f", since {output.cell(finding.since)}" if finding.since else ""
    output.console.print(f"  {finding.id}{since}: {finding.what}", soft_wrap=True)
    if finding.remedy:
        output.console.print(f"    {finding.remedy}", soft_wrap=True, style="cyan")
