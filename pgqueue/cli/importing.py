"""`pgqueue import`: the waiting jobs of another queue in the same database become ours."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call
from pgqueue.cli.filters import By
from pgqueue.client.importing import Import, Imported
from pgqueue.errors import InvalidOption
from pgqueue.queries.foreign import Chosen


class System(StrEnum):
    """The queues whose jobs can be imported."""

    PROCRASTINATE = "procrastinate"
    DJANGO_TASKS_DB = "django-tasks-db"


def print_imported(imported: Imported) -> None:
    """Print what was moved, or would be, by task, and what stays, by reason."""
    preview = any(job is None for _, job in imported.moved)
    output.print_table("would be imported" if preview else "imported", ("task", "jobs"), sorted(imported.tasks.items()))
    reasons = Counter((each.task, each.reason) for each in imported.left)
    if reasons:
        rows = [(task, jobs, reason) for (task, reason), jobs in sorted(reasons.items())]
        output.print_table("stay where they are", ("task", "jobs", "why"), rows)
    for other in imported.others:
        output.console.print(other, soft_wrap=True, markup=False)


def import_jobs(
    call: Call,
    system: Annotated[System, typer.Argument(help="The queue whose tables are in this database.")],
    theirs: Annotated[str, typer.Option("--from-schema", help="The schema of its tables.")] = "public",
    renamed: Annotated[
        list[str] | None, typer.Option("--map", help="A task that has another name here: old=new. May be repeated.")
    ] = None,
    queues: Annotated[
        list[str] | None, typer.Option("-Q", "--queue", help="Only jobs of this queue there. May be repeated.")
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also jobs that have failed there: they run again, as if new.")
    ] = False,
    by: By = None,
    preview: Annotated[bool, typer.Option("--dry-run", help="Say what would be moved, and write nothing.")] = False,
) -> Imported:
    """Move the waiting jobs of procrastinate or django-tasks-db here, in one transaction, and say what stays and why.

    Name the app (-A): only jobs of its tasks move, with the same checks as a call. docs/moving-from-others.md has more.
    """
    chosen = Import(call.app, system.value, theirs, _pairs(renamed or ()), Chosen(queues or None, failed))
    return chosen.preview() if preview else chosen.run(by, "cli")


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        old, equals, new = each.partition("=")
        if not (old and equals and new):
            raise InvalidOption(f"--map {each!r:.200} cannot be used: give old=new, two names of a task")
        pairs[old] = new
    return pairs
