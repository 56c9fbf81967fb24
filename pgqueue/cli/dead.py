"""`pgqueue dead …` and `pgqueue operations …`."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from inspect import Parameter, signature
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.jobs import print_dead, print_job, show_job
from pgqueue.cli.options import Before, Limit
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.dead import MOST_PREVIEWED, DeadGroup, DeadLetter
from pgqueue.queries.operations import Operation

dead_cli = typer.Typer(
    help="Dead letters, jobs that failed for good: see, redrive, edit, discard.", no_args_is_help=True
)
operations_cli = typer.Typer(help="What was asked to be done to many dead letters.", no_args_is_help=True)

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
By = Annotated[str | None, typer.Option(help="Who acts. Default: the user of this process.")]
AtMost = Annotated[int | None, typer.Option("-n", "--limit", min=1, help="At most so many, the lowest ids first.")]
OperationId = Annotated[int, typer.Argument(help="The operation's id.")]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
EXAMPLES = 10
_FILTER = {
    "task": Annotated[str | None, typer.Option("--task", help="Only this task; * stands for any characters.")],
    "queue": Annotated[str | None, typer.Option("-Q", "--queue", help="Only this queue.")],
    "error": Annotated[str | None, typer.Option("--error", help="Only this class of error, in full or its last part.")],
    "group": Annotated[str | None, typer.Option("--group", help="Only this fingerprint, as `dead groups` shows it.")],
    "tag": Annotated[str | None, typer.Option("--tag", help="Only with this tag.")],
    "since": Annotated[str | None, typer.Option("--since", help="Failed since: 90s, 30m, 2h, 7d ago, or a time.")],
    "until": Annotated[str | None, typer.Option("--until", help="Failed before: an age, or a time with its zone.")],
    "arg": Annotated[list[str] | None, typer.Option("--arg", help="An argument: tenant=7. May be repeated.")],
    "ids": Annotated[list[int] | None, typer.Option("--id", help="Only this job. May be repeated.")],
    "everything": Annotated[bool, typer.Option("--all", help="Every dead letter, where no filter is given.")],
}


def _chosen(
    arg: list[str] | None, ids: list[int] | None, since: str | None, until: str | None, **plain: str | None
) -> DeadFilter:
    return DeadFilter(
        **plain,
        args=read_values("--arg", arg) if arg else None,
        ids=ids,
        since=_moment("--since", since),
        until=_moment("--until", until),
    )


def read_values(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` texts: a value is JSON, or else a plain text. Raises InvalidOption."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InvalidOption(f"{option} {text!r} cannot be used: give name=value, for example tenant=7")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    if (ago := re.fullmatch(r"(\d+)([smhdw])", text)) is not None:
        try:
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * UNITS[ago[2]])
        except OverflowError:
            raise InvalidOption(f"{option} {text!r} cannot be used: that is before the first year") from None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidOption(f"{option} {text!r} cannot be used: give an age such as 2h, or a time with its zone")
    return moment


def filtered(name: str, show: Callable[[Any], object]) -> Callable[[Callable[..., Any]], None]:
    """Make a function of a call, a filter and its own options a command that has the options of a filter."""
    shared = [
        Parameter(option, Parameter.KEYWORD_ONLY, default=False if option == "everything" else None, annotation=kind)
        for option, kind in _FILTER.items()
    ]

    def register(function: Callable[..., Any]) -> None:
        own = list(signature(function).parameters.values())

        def run(call: Call, everything: bool, **options: Any) -> Any:
            chosen = _chosen(**{option: options.pop(option) for option in _FILTER.keys() - {"everything"}})
            if chosen.fits_all:
                chosen = DeadFilter(task="*") if everything else chosen
            return function(call, chosen, **options)

        run.__signature__ = signature(function).replace(parameters=[own[0], *own[2:], *shared])  # type: ignore[attr-defined]
        run.__doc__ = function.__doc__
        command(dead_cli, name, show)(run)

    return register


def _print_groups(groups: Sequence[DeadGroup]) -> None:
    rows = [(g.fingerprint, g.jobs, g.error, g.tasks, g.first_failed_at, g.last_failed_at, g.newest_id) for g in groups]
    columns = ("group", "jobs", "error", "tasks", "first failed at", "last failed at", "newest job")
    output.print_table("groups of dead letters", columns, rows)


@command(dead_cli, "groups", _print_groups)
def dead_groups(call: Call, limit: Limit = 20) -> Sequence[DeadGroup]:
    """Count dead letters by the cause of their error, the latest failure first."""
    return call.app.dead.groups(limit)


@filtered("list", print_dead)
def list_dead(call: Call, chosen: DeadFilter, limit: Limit = 20, before: Before = None) -> Sequence[Job]:
    """List dead letters, newest first."""
    return call.app.dead.list(chosen, limit, before)


command(dead_cli, "show", print_job)(show_job)


def _ask(call: Call, chosen: DeadFilter, verb: str, limit: int | None, dry_run: bool, yes: bool) -> bool:
    """Show what would be done, and return whether to do it. Raises InvalidOption where nobody can be asked."""
    if chosen.fits_all:
        raise InvalidOption(f"dead {verb} without a filter would take every dead letter: if you mean that, say --all")
    if yes and not dry_run:
        return True
    found = call.app.dead.preview(chosen, min(limit or MOST_PREVIEWED + 1, MOST_PREVIEWED + 1))
    _print_preview(found, verb)
    if dry_run or not found:
        return False
    if not sys.stdin.isatty():
        raise InvalidOption(f"dead {verb} asks before it acts, and there is no terminal: say --yes")
    return typer.confirm(f"{verb} them?", err=True)


def _print_preview(found: Sequence[DeadLetter], verb: str) -> None:
    more = len(found) > MOST_PREVIEWED
    output.say(f"about {min(len(found), MOST_PREVIEWED)}{'+' if more else ''} dead letters to {verb}, for example:")
    for dead in found[:EXAMPLES]:
        output.say(f"  {dead.id} {dead.task} in {dead.queue}, failed at {output.cell(dead.failed_at)}: {dead.error}")


def _print_operation(operation: Operation | None) -> None:
    if operation is None:
        output.say("nothing was done")
        return
    state = operation.error or ("stopped" if operation.stopped_at else "done" if operation.ended_at else "runs")
    output.console.print(
        f"operation {operation.id}, {operation.kind} by {operation.actor}: {operation.done} done, "
        f"{operation.skipped} skipped; {state}"
    )


@filtered("redrive", _print_operation)
def redrive(
    call: Call,
    chosen: DeadFilter,
    limit: AtMost = None,
    rate: Annotated[str | None, typer.Option(help="How many become due a second: 50, or 50/s, 600/m, 1000/h.")] = None,
    attempts: Annotated[int | None, typer.Option(help="How often each may run. Default: as often as before.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until the first is due.")] = None,
    to_queue: Annotated[str | None, typer.Option(help="The queue they go to. Default: their own.")] = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Operation | None:
    """Bring dead letters back as pending jobs, with their ids and history. Those that the task refuses are skipped."""
    per_second = None if rate is None else _rate(rate)
    if not _ask(call, chosen, "redrive", limit, dry_run, yes):
        return None
    return call.app.dead.redrive(
        chosen, limit=limit, rate=per_second, attempts=attempts, delay=delay, queue=to_queue, by=by, via="cli"
    )


def _rate(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/([smhd]))?", text)
    if found is None:
        raise InvalidOption(f"--rate {text!r} cannot be used: give a number a second, such as 50, 50/s or 600/m")
    return float(found[1]) / UNITS[found[2] or "s"]


@filtered("discard", _print_operation)
def discard(
    call: Call,
    chosen: DeadFilter,
    reason: Annotated[str, typer.Option(help="Why nobody will want these jobs any more.")],
    limit: AtMost = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Operation | None:
    """End dead letters as cancelled jobs, with a reason."""
    if not _ask(call, chosen, "discard", limit, dry_run, yes):
        return None
    return call.app.dead.discard(chosen, reason=reason, limit=limit, by=by, via="cli")


def _print_edited(job: Job) -> None:
    output.say(f"job {job.id} {job.task}: {output.cell(job.args)}; it is {job.state}")


@command(dead_cli, "edit", _print_edited)
def edit(
    call: Call,
    job_id: Annotated[int, typer.Argument(help="The job's id.")],
    changes: Annotated[list[str], typer.Option("--set", help="An argument: order_id=43. May be repeated.")],
    redrive: Annotated[bool, typer.Option("--redrive", help="Bring the job back at once.")] = False,
    by: By = None,
) -> Job:
    """Change arguments of a dead letter. They are validated if an app is named; the log keeps what they were."""
    edited = call.app.dead.edit(job_id, read_values("--set", changes), by=by)
    if not redrive:
        return edited
    call.app.dead.redrive(DeadFilter(ids=[job_id]), by=by, via="cli")
    return call.app.get(job_id)


def _print_operations(operations: Sequence[Operation]) -> None:
    rows = [
        (o.id, o.kind, o.actor, o.via, o.filter, o.started_at, o.ended_at or (o.stopped_at and "stopped") or "runs",
         o.done, o.skipped, o.error)
        for o in operations
    ]  # fmt: skip
    columns = ("id", "kind", "by", "via", "filter", "started at", "ended at", "done", "skipped", "error")
    output.print_table("operations", columns, rows)


@command(operations_cli, "list", _print_operations)
def list_operations(call: Call, limit: Limit = 20) -> Sequence[Operation]:
    """List operations, newest first."""
    return call.app.operations.list(limit)


@command(operations_cli, "show", _print_operation)
def show_operation(call: Call, operation_id: OperationId) -> Operation:
    """Show how far an operation is."""
    return call.app.operations.get(operation_id)


@command(operations_cli, "stop", _print_operation)
def stop_operation(call: Call, operation_id: OperationId) -> Operation:
    """Stop an operation after its present batch. What it has done stays done."""
    return call.app.operations.stop(operation_id)


@command(operations_cli, "resume", _print_operation)
def resume_operation(call: Call, operation_id: OperationId) -> Operation:
    """Let an operation that was stopped, or whose client died, go on, and wait for its end."""
    return call.app.operations.resume(operation_id)
