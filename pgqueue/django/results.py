"""Jobs as results of Django's tasks."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

import pgqueue
from pgqueue.django.interface import InvalidTask, Status, TaskError, TaskResult
from pgqueue.error_info import ErrorInfo
from pgqueue.jobs.job import Attempt, Job, JobState
from pgqueue.tasks.call_shape import POSITIONAL, CallShape

RUN_AFTER = "django_run_after"  # the header with the time that `run_after` gave, for a retry moves that of the job
_STATUS = {
    JobState.RUNNING: Status.RUNNING,
    JobState.SUCCEEDED: Status.SUCCESSFUL,
    JobState.FAILED: Status.FAILED,
    JobState.CANCELLED: Status.FAILED,
}


def result_of(job: Job, task: Any, backend: str) -> Any:
    """Return a job as the result of the task that it runs, as `task` is registered.

    A job that waits, also for its next attempt, is READY. A cancelled one is FAILED, with the error
    pgqueue.JobWasCancelled: Django knows no other end.
    """
    ran = [attempt for attempt in job.attempts if attempt.reason != "released"]
    args, kwargs = CallShape.of(task.func, int(task.takes_context)).given(job.args, job.headers.get(POSITIONAL))
    result = TaskResult(
        task=_as_enqueued(task, job),
        id=str(job.id),
        status=_STATUS.get(job.state, Status.READY),
        enqueued_at=_local(job.created_at),
        started_at=_local(ran[0].started_at) if ran else None,
        last_attempted_at=_local(ran[-1].started_at) if ran else None,
        finished_at=_local(job.finished_at),
        args=list(args),
        kwargs=kwargs,
        backend=backend,
        errors=list(_errors(job, ran)),
        worker_ids=[str(attempt.worker_id) for attempt in ran],
    )
    if job.state is JobState.SUCCEEDED:
        object.__setattr__(result, "_return_value", job.result)
    return result


def error_of(error: ErrorInfo) -> Any:
    """Return the record of an exception as Django's. What is no exception, such as a child process that died, is
    a JobFailed."""
    path = error.type if "." in error.type else f"builtins.{error.type}"
    if path == "pgqueue.django.running.NotJson":
        path = "builtins.TypeError"  # as Django has it
    if path.startswith("pgqueue.") and path.count(".") == 1 and not hasattr(pgqueue, path.removeprefix("pgqueue.")):
        path = "pgqueue.JobFailed"
    return TaskError(exception_class_path=path, traceback=error.traceback or f"{error.type}: {error.message}\n")


def _errors(job: Job, ran: Sequence[Attempt]) -> list[Any]:
    errors = [attempt.error for attempt in ran if attempt.error is not None]
    if not errors and job.error is not None and job.state is JobState.FAILED:
        errors = [job.error]
    if job.state is JobState.CANCELLED:
        errors.append(ErrorInfo("pgqueue.JobWasCancelled", f"job {job.id} was cancelled: {job.reason}"))
    return [error_of(error) for error in errors]


def _as_enqueued(task: Any, job: Job) -> Any:
    """Return a task with the queue, priority and time of its job."""
    text = job.headers.get(RUN_AFTER)
    run_after = None if text is None else datetime.fromisoformat(text)
    if (task.queue_name, task.priority, task.run_after) == (job.queue, job.priority, run_after):
        return task
    with suppress(InvalidTask):  # somebody has moved it to a queue that QUEUES does not name
        return replace(task, queue_name=job.queue, priority=job.priority, run_after=run_after)
    return task


def _local(moment: datetime | None) -> Any:
    """Return a time as the project has times: aware, or with USE_TZ=False naive."""
    if moment is None or settings.USE_TZ:
        return moment
    return timezone.make_naive(moment)
