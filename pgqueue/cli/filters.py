"""Commands on many jobs: the options of a filter, the question before anything is done, and how far it is."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from inspect import Parameter, signature
from typing import Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.completion import complete_queue, complete_state, complete_task
from pgqueue.client.moments import read_moment
from pgqueue.client.operations import Watcher
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job_filter import PHASES, Filter
from pgqueue.queries.chosen import MOST_PREVIEWED, Preview
from pgqueue.queries.jobs.list import MOST_LOOKED
from pgqueue.queries.operations import Operation

F = TypeVar("F", bound=Filter)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
By = Annotated[str | None, typer.Option(help="Who acts. Default: the user of this process.")]
AtMost = Annotated[
    int | None, typer.Option("-n", "--limit", min=1, help="At most so many, the lowest ids first. Default: all.")
]

EXAMPLES = 10


def _options(kind: type[Filter]) -> dict[str, Any]:
    """Return the options of a filter, by the names of its fields, and `everything`."""
    what, when = ("dead letter", "failed") if kind is DeadFilter else ("job", "enqueued")
    of_dead = {
        "error": Annotated[str | None, typer.Option("--error", help="Only this class, in full or its last part.")],
        "group": Annotated[str | None, typer.Option("--group", help="Only this fingerprint, as `dead groups` has it.")],
    }
    of_jobs = {
        "state": Annotated[
            str | None,
            typer.Option(
                "--state",
                "--phase",
                help=f"Only this state or phase: {', '.join(PHASES)}.",
                autocompletion=complete_state,
            ),
        ]
    }
    return {
        "task": Annotated[
            str | None,
            typer.Option("--task", help="Only this task; * stands for any characters.", autocompletion=complete_task),
        ],
        "queue": Annotated[
            str | None, typer.Option("-Q", "--queue", help="Only this queue.", autocompletion=complete_queue)
        ],
        **(of_dead if kind is DeadFilter else of_jobs),
        "tag": Annotated[str | None, typer.Option("--tag", help="Only with this tag.")],
        "since": Annotated[
            str | None,
            typer.Option("--since", help=f"Only {when} since: 90s, 30m, 2h, 7d ago, or a time with its zone."),
        ],
        "until": Annotated[
            str | None, typer.Option("--until", help=f"Only {when} before: an age, or a time with its zone.")
        ],
        "arg": Annotated[list[str] | None, typer.Option("--arg", help="An argument: tenant=7. May be repeated.")],
        "ids": Annotated[list[int] | None, typer.Option("--id", help="Only this job. May be repeated.")],
        "everything": Annotated[bool, typer.Option("--all", help=f"Every {what}, where no filter is given.")],
    }


def _chosen(
    kind: type[F], arg: list[str] | None, since: str | None, until: str | None, everything: bool, plain: dict[str, Any]
) -> F:
    chosen = kind(
        args=read_values("--arg", arg) if arg else None,
        since=read_moment("--since", since),
        until=read_moment("--until", until),
        **plain,
    )
    return kind(task="*") if everything and chosen.fits_all else chosen


def read_values(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` texts: a value is JSON, or else a plain text. Raises InvalidOption."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidOption(f"{option} {text!r:.100} cannot be used: give name=value, for example tenant=7")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
        except RecursionError:
            raise InvalidOption(f"{option} {text!r:.100} cannot be used: it is nested too deep") from None
    return values


def filtered(
    group: typer.Typer, name: str, show: Callable[[Any], object], kind: type[Filter]
) -> Callable[[Callable[..., Any]], None]:
    """Make a function of a call, a filter and its own options a command that has the options of a filter."""
    options = _options(kind)
    shared = [
        Parameter(option, Parameter.KEYWORD_ONLY, default=False if option == "everything" else None, annotation=of)
        for option, of in options.items()
    ]

    def register(function: Callable[..., Any]) -> None:
        own = list(signature(function).parameters.values())

        def run(call: Call, **given: Any) -> Any:
            parts = {option: given.pop(option) for option in options}
            read = {option: parts.pop(option) for option in ("arg", "since", "until", "everything")}
            return function(call, _chosen(kind, plain=parts, **read), **given)

        run.__signature__ = signature(function).replace(parameters=[own[0], *own[2:], *shared])  # type: ignore[attr-defined]
        run.__doc__ = function.__doc__
        command(group, name, show)(run)

    return register


def ask(
    verb: str, chosen: Filter, preview: Callable[[int], Preview], limit: int | None, dry_run: bool, yes: bool
) -> bool:
    """Show what would be done, and return whether to do it. Raises InvalidOption where nobody can be asked."""
    what = "dead letter" if isinstance(chosen, DeadFilter) else "job"
    if chosen.fits_all:
        raise InvalidOption(f"{verb} without a filter would take every {what}: if you mean that, say --all")
    if yes and not dry_run:
        return True
    found = preview(min(limit or MOST_PREVIEWED + 1, MOST_PREVIEWED + 1))
    output.say(_how_many(found, limit, f"{what}s to {verb}"))
    for job in found[:EXAMPLES]:
        words = "" if job.words is None else f": {output.cell(job.words)}"
        output.say(f"  {job.id} {job.task} in {job.queue}, {job.phase}, enqueued {output.cell(job.created_at)}{words}")
    if found.notice is not None:
        output.say(found.notice)
    if dry_run or (not found and found.notice is None):
        return False
    if not sys.stdin.isatty():
        raise InvalidOption(f"{verb} asks before it acts, and there is no terminal: say --yes")
    return typer.confirm(f"{verb} {'them' if found.notice is None else 'all that fit'}?", err=True)


def _how_many(found: Preview, limit: int | None, what: str) -> str:
    """Say how many jobs a verb would take: a number, or the least that it can be."""
    count, enough = min(len(found), MOST_PREVIEWED), limit is not None and len(found) >= limit
    among = f"the newest {MOST_LOOKED}" if found.unseen_from is None else "those that were looked at"
    if not found:
        return f"no {what}" + ("" if found.notice is None else f" among {among}")
    if found.notice is None or enough:
        return f"about {count}{'+' if len(found) > MOST_PREVIEWED else ''} {what}, for example:"
    return f"at least {count} {what} among {among}, for example:"


def watched(work: Callable[[Watcher], Operation]) -> Operation:
    """Do the work of an operation, and show on a terminal how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns, console=output.stderr, disable=not sys.stderr.isatty()))
        shown = bar.add_task("", total=None)

        def show(operation: Operation) -> None:
            held = f", {len(operation.locked)} held by others" if operation.locked else ""
            total = operation.options.get("limit") or (operation.done if operation.ended_at else None)
            about = f"operation {operation.id}, {operation.kind}{held}"
            bar.update(shown, description=about, completed=operation.done, total=total)

        return work(show)


def print_operation(operation: Operation | None) -> None:
    """Print how far an operation is."""
    if operation is None:
        output.say("nothing was done")
        return
    held = f", {len(operation.locked)} held by open transactions" if operation.locked else ""
    output.console.print(
        f"operation {operation.id}, {operation.kind} by {operation.actor}: {operation.done} done, "
        f"{operation.skipped} skipped{held}; {operation.error or operation.state}"
    )
    if operation.state == "running":
        output.say(f"a worker goes on with it, or `pgqueue operations resume {operation.id}`")
