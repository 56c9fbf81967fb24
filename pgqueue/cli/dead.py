"""`pgqueue dead …`."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import AtMost, By, DryRun, Yes, ask, filtered, print_operation, read_values, watched
from pgqueue.cli.jobs import note_line, print_dead, print_job, show_job
from pgqueue.cli.options import Before, Limit
from pgqueue.errors import InvalidOption
from pgqueue.jobs.dead_filter import DeadFilter
from pgqueue.jobs.job import Job
from pgqueue.queries.dead import DeadGroup
from pgqueue.queries.operations import Operation
from pgqueue.timing import UNITS

dead_cli = typer.Typer(
    help="Dead letters, jobs that failed for good: see, redrive, edit, annotate, discard.", no_args_is_help=True
)


def _print_groups(groups: Sequence[DeadGroup]) -> None:
    rows = [(g.fingerprint, g.jobs, g.error, g.tasks, g.first_failed_at, g.last_failed_at, g.newest_id) for g in groups]
    columns = ("group", "jobs", "error", "tasks", "first failed at", "last failed at", "newest job")
    output.print_table("groups of dead letters", columns, rows, spare=("first failed at", "newest job"))


@command(dead_cli, "groups", _print_groups)
def dead_groups(call: Call, limit: Limit = 20) -> Sequence[DeadGroup]:
    """Count dead letters by the cause of their error, the latest failure first."""
    return call.app.dead.groups(limit)


@filtered(dead_cli, "list", print_dead, DeadFilter)
def list_dead(call: Call, chosen: DeadFilter, limit: Limit = 20, before: Before = None) -> Sequence[Job]:
    """List dead letters, newest first."""
    return call.app.dead.list(chosen, limit, before)


command(dead_cli, "show", print_job)(show_job)


def _ask(call: Call, verb: str, chosen: DeadFilter, limit: int | None, dry_run: bool, yes: bool) -> bool:
    return ask(verb, chosen, lambda most: call.app.dead.preview(chosen, most, kind=verb), limit, dry_run, yes)


@filtered(dead_cli, "redrive", print_operation, DeadFilter)
def redrive(
    call: Call,
    chosen: DeadFilter,
    limit: AtMost = None,
    rate: Annotated[
        str | None, typer.Option(help="How many become due a second: 50, or 50/s, 600/m, 1000/h. Default: all at once.")
    ] = None,
    attempts: Annotated[int | None, typer.Option(help="How often each may run. Default: as often as before.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until the first is due. Default: 0.")] = None,
    to_queue: Annotated[str | None, typer.Option(help="The queue they go to. Default: their own.")] = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Operation | None:
    """Bring dead letters back as pending jobs, with their ids and history. Those that the task refuses are skipped."""
    per_second = None if rate is None else _rate(rate)
    if not _ask(call, "redrive", chosen, limit, dry_run, yes):
        return None
    how: Any = {"rate": per_second, "attempts": attempts, "delay": delay, "queue": to_queue, "by": by, "via": "cli"}
    return watched(lambda watch: call.app.dead.redrive(chosen, limit=limit, on_batch=watch, **how))


def _rate(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:/([smhd]))?", text)
    if found is None:
        raise InvalidOption(f"--rate {text!r:.100} cannot be used: give a number a second, such as 50, 50/s or 600/m")
    return float(found[1]) / UNITS[found[2] or "s"]


@filtered(dead_cli, "discard", print_operation, DeadFilter)
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
    if not _ask(call, "discard", chosen, limit, dry_run, yes):
        return None
    how: Any = {"reason": reason, "limit": limit, "by": by, "via": "cli"}
    return watched(lambda watch: call.app.dead.discard(chosen, on_batch=watch, **how))


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
    save = partial(call.app.dead.edit, job_id, read_values("--set", changes), by=by)
    edited = call.recorded("edit", {"job": job_id}, by, save)
    if not redrive:
        return edited
    call.app.dead.redrive(DeadFilter(ids=[job_id]), by=by, via="cli")
    return call.app.get(job_id)


def _print_annotated(job: Job) -> None:
    output.say(f"job {job.id} {job.task}: {note_line(job.notes[-1])}")


@command(dead_cli, "annotate", _print_annotated)
def annotate(
    call: Call,
    job_id: Annotated[int, typer.Argument(help="The job's id.")],
    text: Annotated[str, typer.Argument(help="What the next one who looks at it should know.")],
    by: By = None,
) -> Job:
    """Put a note on a dead letter. It stays as long as the dead letter does, and goes with the job that comes back."""
    act = partial(call.app.dead.annotate, job_id, text, by=by)
    return call.recorded("annotate", {"job": job_id}, by, act, text=text)
