"""`pgqueue enqueue`, `pgqueue jobs …` and `pgqueue dead …`."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pgqueue.cli import output
from pgqueue.cli.call import Call, command
from pgqueue.cli.options import Before, Limit, QueueName, TaskName, json_arguments
from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import Job

jobs_cli = typer.Typer(help="Look at jobs, cancel them.", no_args_is_help=True)
dead_cli = typer.Typer(help="Look at dead letters.", no_args_is_help=True)
PHASES = ("blocked", "pending", "scheduled", "retrying", "running", "succeeded", "failed", "cancelled")

JobId = Annotated[int, typer.Argument(help="The job's id.")]


def enqueue(
    call: Call,
    task: Annotated[str, typer.Argument(help="The task's name.")],
    args: Annotated[str, typer.Argument(help="Its arguments as a JSON object.")] = "{}",
    queue: Annotated[str | None, typer.Option("-Q", "--queue", help="Default: the task's.")] = None,
    priority: Annotated[int | None, typer.Option(help="-100 to 100, higher runs sooner.")] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds to wait.")] = None,
    task_version: Annotated[int | None, typer.Option(help="The version of a task that no app here declares.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Default: the task's.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="Enqueue it once; then print the first job's id.")] = None,
    unique_key: Annotated[str | None, typer.Option(help="Only if no job with this key waits already.")] = None,
    on_conflict: Annotated[str | None, typer.Option(help="With a unique key: skip, replace or raise.")] = None,
    expires: Annotated[float | None, typer.Option(help="Seconds after which it is not started any more.")] = None,
) -> Job:
    """Enqueue a job. With an app its task must be registered and its arguments are validated."""
    if call.has_app:
        call.app.tasks[task]  # an unknown name is an error here: a job of a task that nobody knows would wait for ever
    conditions: Any = {"idempotency_key": idempotency_key, "unique_key": unique_key, "expires": expires}
    conditions |= {"on_conflict": on_conflict, "version": task_version}
    client = call.app.using(
        queue=queue, priority=priority, delay=delay, max_attempts=max_attempts, tags=tag, **conditions
    )
    return client.enqueue(task, json_arguments(task, args))


@command(jobs_cli, "list", lambda jobs: output.print_jobs("jobs", jobs))
def list_jobs(
    call: Call,
    state: Annotated[
        str | None, typer.Option(help="A state or phase: pending, scheduled, retrying, running, …")
    ] = None,
    queue: QueueName = None,
    task: TaskName = None,
    limit: Limit = 20,
    before: Before = None,
) -> Sequence[Job]:
    """List jobs, newest first."""
    if state is not None and state not in PHASES:
        raise InvalidOption(f"state {state!r} is not one of {', '.join(PHASES)}")
    return call.run(call.app.queries.jobs.list_jobs(state=state, queue=queue, task=task, before=before, limit=limit))


@command(jobs_cli, "show", output.print_job)
def show_job(call: Call, job_id: JobId) -> Job:
    """Show one job with its attempts and their errors."""
    return call.app.get(job_id)


@command(jobs_cli, "cancel", output.say, has_json=False)
def cancel_job(call: Call, job_id: JobId) -> str:
    """Cancel a job: a waiting one at once, a running one through its worker."""
    ended = call.app.cancel(job_id)
    return f"job {job_id} is cancelled" if ended else f"job {job_id} runs: its worker was asked to stop it"


@command(dead_cli, "list", output.print_dead)
def list_dead(
    call: Call, queue: QueueName = None, task: TaskName = None, limit: Limit = 20, before: Before = None
) -> Sequence[Job]:
    """List dead letters, newest first."""
    return call.run(call.app.queries.jobs.list_jobs(state="failed", queue=queue, task=task, before=before, limit=limit))
