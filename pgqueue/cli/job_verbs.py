"""`pgqueue jobs cancel|retry|promote|edit|wait|why`: on jobs named by id, or on those that fit a filter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.filters import AtMost, By, DryRun, Yes, ask, filtered, print_operation, read_values, watched
from pgqueue.cli.jobs import JobId, jobs_cli
from pgqueue.client.moments import read_time
from pgqueue.errors import InvalidOption, JobFailed, JobWasCancelled, PgqueueError, ResultMissing, UnknownJob, WaitError
from pgqueue.jobs.job import Job
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.why import Why
from pgqueue.queries.operations import Operation

__all__ = ["jobs_cli"]

JobIds = Annotated[list[int] | None, typer.Argument(help="Ids of jobs, instead of a filter.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Refused:
    """A job to which something could not be done, and why."""

    id: int
    error: str


@dataclass(frozen=True, slots=True)
class ByIds:
    """What became of jobs that were named by id."""

    jobs: list[Job] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


Result: TypeAlias = ByIds | Operation | None


def _by_ids(call: Call, ids: Sequence[int], do: Callable[[int], object]) -> ByIds:
    """Do something to each of these jobs. A job that refuses it is named on stderr, and the others go on."""
    jobs, refused = [], []
    for job_id in ids:
        try:
            do(job_id)
            jobs.append(call.app.get(job_id))
        except PgqueueError as error:
            output.complain(error)
            refused.append(Refused(job_id, str(error)))
            call.exit_code = max(call.exit_code, error.exit_code)
    return ByIds(jobs, refused)


def _print_result(result: Result) -> None:
    if not isinstance(result, ByIds):
        print_operation(result)
        return
    for job in result.jobs:
        asked = ": its worker was asked to stop it" if job.cancel_requested_at else ""
        when = (
            f", due {output.cell(job.run_at)}" if job.phase in ("pending", "scheduled", "sleeping", "retrying") else ""
        )
        output.console.print(f"job {job.id} {job.task} in {job.queue} is {job.phase}{when}{asked}", soft_wrap=True)


def _by_filter(
    call: Call, verb: str, chosen: JobFilter, how: Mapping[str, Any], asking: tuple[int | None, bool, bool]
) -> Operation | None:
    """Show what a verb would do to the jobs that fit, ask, and do it."""
    limit, dry_run, yes = asking
    priority = how.get("priority") if verb == "promote" else None
    jobs = call.app.jobs
    if not ask(verb, chosen, lambda most: jobs.preview(verb, chosen, most, priority=priority), limit, dry_run, yes):
        return None
    act: Callable[..., Operation] = getattr(jobs, verb)
    return watched(lambda watch: act(chosen, limit=limit, via="cli", on_batch=watch, **how))


def _either(ids: list[int] | None, chosen: JobFilter) -> bool:
    """Whether jobs are named by id. Raises InvalidOption for ids together with a filter."""
    if ids and not chosen.fits_all:
        raise InvalidOption("ids and a filter exclude each other: give one of them")
    return bool(ids)


@filtered(jobs_cli, "cancel", _print_result, JobFilter)
def cancel(
    call: Call,
    chosen: JobFilter,
    job_ids: JobIds = None,
    reason: Annotated[str | None, typer.Option(help="What the history says. Default: that it was asked for.")] = None,
    limit: AtMost = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Result:
    """Cancel jobs: those that wait end, and the workers of those that run are asked to stop them."""
    if _either(job_ids, chosen):
        words = {} if reason is None else {"reason": reason}
        return _by_ids(call, job_ids or [], lambda one: call.app.using().cancel(one, **words))
    return _by_filter(call, "cancel", chosen, {"reason": reason, "by": by}, (limit, dry_run, yes))


@filtered(jobs_cli, "retry", _print_result, JobFilter)
def retry(
    call: Call,
    chosen: JobFilter,
    job_ids: JobIds = None,
    limit: AtMost = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Result:
    """Let jobs run again now: those that wait for their next attempt, dead letters, and cancelled jobs.

    A filter takes cancelled jobs only with `--state cancelled` or `--id`.
    """
    if _either(job_ids, chosen):
        return _by_ids(call, job_ids or [], lambda one: call.app.retry(one, by=by))
    return _by_filter(call, "retry", chosen, {"by": by}, (limit, dry_run, yes))


Priority = Annotated[
    int | None, typer.Option(help="The new priority, -100 to 100; a higher one runs sooner. Default: as it is.")
]


@filtered(jobs_cli, "promote", _print_result, JobFilter)
def promote(
    call: Call,
    chosen: JobFilter,
    job_ids: JobIds = None,
    priority: Priority = None,
    limit: AtMost = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Result:
    """Make jobs due now that wait for a later time."""
    if _either(job_ids, chosen):
        return _by_ids(call, job_ids or [], lambda one: call.app.promote(one, priority=priority, by=by))
    return _by_filter(call, "promote", chosen, {"priority": priority, "by": by}, (limit, dry_run, yes))


@filtered(jobs_cli, "edit", _print_result, JobFilter)
def edit(
    call: Call,
    chosen: JobFilter,
    job_ids: JobIds = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="An argument: order_id=43. May be repeated.")
    ] = None,
    to_queue: Annotated[str | None, typer.Option(help="The queue they go to. Default: their own.")] = None,
    priority: Priority = None,
    run_at: Annotated[
        str | None, typer.Option(help="When they are due: a time with its zone. Default: as it is.")
    ] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds from now until they are due. Default: as it is.")] = None,
    limit: AtMost = None,
    by: By = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> Result:
    """Change arguments, queue, priority or run time of jobs that wait. The log keeps what they were.

    Arguments are validated if an app is named.
    """
    values = read_values("--set", changes or [])
    how = {"queue": to_queue, "priority": priority, "run_at": _time(run_at), "delay": delay, "by": by}
    if _either(job_ids, chosen):
        return _by_ids(call, job_ids or [], lambda one: call.app.edit(one, values, **how))  # type: ignore[arg-type]
    return _by_filter(call, "edit", chosen, {"changes": values, **how}, (limit, dry_run, yes))


def _time(text: str | None) -> datetime | None:
    return None if text is None else read_time("--run-at", text)


@dataclass(frozen=True, slots=True)
class Waited:
    """How a job ended that was waited for; `job` is None where nothing is kept of it."""

    job: Job | None
    result: Any
    error: WaitError | None

    def as_dict(self) -> dict[str, Any]:
        """Return the job as `--json` prints it."""
        fields = {} if self.job is None else output.fields_of(self.job)
        return {**fields, "wait_error": None if self.error is None else str(self.error)}


def _print_waited(waited: Waited) -> None:
    if waited.error is not None:
        output.complain(waited.error)
    else:
        output.print_json(waited.result)


@command(jobs_cli, "wait", _print_waited)
def wait_for_job(
    call: Call,
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most. Default: until it has ended.")] = None,
) -> Waited:
    """Wait until a job has ended, and print its result. Ends with 0 if it has succeeded, else with 1."""
    call.app.get(job_id)  # an id that never was would be waited for without end
    try:
        result, error = call.app.wait(job_id, timeout), None
    except (JobFailed, JobWasCancelled, ResultMissing) as ended:
        result, error = None, ended
        call.exit_code = 0 if isinstance(ended, ResultMissing) else 1
    try:
        return Waited(call.app.get(job_id), result, error)
    except UnknownJob:
        return Waited(None, result, error)


def _print_why(why: Why) -> None:
    output.console.print(f"job {why.job.id} {why.job.task} in {why.job.queue} is {why.job.phase}", style="bold")
    for reason in why.reasons:
        output.console.print(f"- {reason.text}", soft_wrap=True)


@command(jobs_cli, "why", _print_why)
def why(call: Call, job_id: JobId) -> Why:
    """Say why a job does not run, or what became of it. With an app (-A) also its retry policy."""
    return call.app.why(job_id)
