"""Changing one job that waits, or bringing one back, in the caller's transaction."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NoReturn, Protocol, TypedDict, Unpack

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.bulk import check_arguments, check_changes, check_options, edited, is_in_order, rule_of_queue
from pgqueue.client.reviving import revive_with
from pgqueue.client.steps import StepRunner, Steps, Transaction, all_or_nothing, verb
from pgqueue.client.waiting import possible_id
from pgqueue.client.why import look_up
from pgqueue.errors import InvalidOption, UnknownJob, WorkflowRunning, WrongState
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.why import Why
from pgqueue.queries.chosen import Candidate
from pgqueue.queries.jobs.change import Edit


class EditOptions(TypedDict, total=False):
    """What an edit may change beside arguments: where and when the job runs. `run_at`: an aware datetime, or `delay`:
    seconds from now. `by`: who acts; the default is the user of this process."""

    queue: str | None
    priority: int | None
    run_at: datetime | None
    delay: float | timedelta | None
    by: str | None


class HasParts(Protocol):
    """An app, or a client of one."""

    @property
    def _app(self) -> AppParts: ...
    @property
    def _runner(self) -> StepRunner: ...


class OperatorVerbs:
    """The verbs of operators on one job, in the caller's transaction where a connection is borrowed."""

    @verb
    @all_or_nothing
    def retry(self: HasParts, job_id: int, *, by: str | None = None) -> Steps[Job]:
        """Let a job run again now: one that waits for its next attempt, a dead letter, or a cancelled one.

        The job keeps its id and its history. A dead letter or cancelled job has all its attempts again; its expiry and
        unique key are gone. A job that is due already stays as it is. Raises WrongState for a job that runs, has
        succeeded, or waits for something else; WorkflowRunning and WorkflowIncomplete where its workflow, with which it
        comes back, cannot be retried; InvalidArguments if the task here would not take the arguments of a dead letter
        or cancelled job; UnknownJob.
        """
        return (yield from retry_job(self._app, possible_id(job_id), who(by)))

    aretry = retry.twin

    @verb
    @all_or_nothing
    def promote(self: HasParts, job_id: int, *, priority: int | None = None, by: str | None = None) -> Steps[Job]:
        """Make a job due now that waits for a later time, with another priority if one is given.

        A job that is due already stays as it is. Raises WrongState for a job that does not wait for a time, and for
        another priority of one that runs in order; UnknownJob.
        """
        options = check_options({"priority": priority})
        reason = f"promoted by {who(by)}"
        moved = yield self._app.queries.jobs.promote([possible_id(job_id)], reason, options.get("priority"))
        job = yield from found_job(self._app, job_id)
        if not moved and job.state != JobState.PENDING and not (job.waits_for_turn or job.waits_for == "pause"):
            _refuse(job, "promoted", _remedy(job))
        _refuse_place(job, priority)
        return job

    apromote = promote.twin

    @verb
    @all_or_nothing
    def edit(
        self: HasParts, job_id: int, changes: Mapping[str, Any] | None = None, **options: Unpack[EditOptions]
    ) -> Steps[Job]:
        """Change arguments, queue, priority or run time of a job that waits; the log keeps what they were.

        Keys stay as they are: a unique key that was made of arguments is not made anew. Raises WrongState for a job
        that runs or has ended, InvalidArguments if the task here would not take the arguments, UnknownKey or CannotOpen
        if they are sealed and this app cannot open them, UnknownJob.
        """
        given = check_edit(changes, options)
        found: Candidate | None = yield self._app.queries.jobs.lock_waiting(possible_id(job_id))
        if found is None:
            job = yield from found_job(self._app, job_id)
            _refuse(job, "edited", "`dead edit` edits a dead letter" if job.state == JobState.FAILED else "")
        if "priority" in given and is_in_order(found):
            _refuse_place((yield from found_job(self._app, job_id)), given["priority"])
        rule = yield from rule_of_queue(self._app, given.get("queue"))
        job_edited = edited(self._app, found, changes, rule)
        reason = f"edited by {who(options.get('by'))}"
        yield self._app.queries.jobs.edit_waiting({job_id: job_edited}, reason, Edit(**given))
        return (yield from found_job(self._app, job_id))

    aedit = edit.twin

    @verb
    @all_or_nothing
    def drop_result(self: HasParts, job_id: int) -> Steps[bool]:
        """Drop the result of a job that has ended, whose row and history stay: True if the job has none any more.

        False if a workflow that goes on, or a job that has called this one, may still read the result: then a worker
        drops it within a minute after none does. A wait for the job raises ResultMissing from then on. Raises
        WrongState for a job that has not ended, and UnknownJob.
        """
        job_id = possible_id(job_id)
        yield self._app.queries.jobs.expire_result(job_id)
        yield self._app.queries.jobs.drop_result(job_id)
        job = yield from found_job(self._app, job_id)
        if not job.state.is_terminal:
            raise WrongState(job.id, job.phase, f"is {job.phase} and has no result yet: wait for its end")
        return job.result is None

    adrop_result = drop_result.twin

    @verb
    def why(self: HasParts, job_id: int) -> Steps[Why]:
        """Say why a job does not run, or what became of it: every reason, with numbers. Costs the same on any backlog.

        Raises UnknownJob.
        """
        app, job_id = self._app, possible_id(job_id)
        if self._runner.borrows:
            return (yield from _why(app, job_id))
        found: Why = yield Transaction(_why(app, job_id, prefer_indexes=True))
        return found

    awhy = why.twin


def _why(app: AppParts, job_id: int, *, prefer_indexes: bool = False) -> Steps[Why]:
    """Look up why a job does not run. `prefer_indexes` is a setting of the transaction: not for a caller's, which would
    keep it. Without it the planner may read a whole lane where it has no statistics."""
    if prefer_indexes:
        yield app.queries.jobs.prefer_indexes()
    return (yield from look_up(app, (yield from found_job(app, job_id))))


def retry_job(app: AppParts, job_id: int, actor: str) -> Steps[Job]:
    """Let a job run again now. Raises what `retry` does."""
    queries = app.queries
    for _ in range(2):  # a job that others move between two statements is found the second time
        if (yield queries.jobs.retry_waiting([job_id], f"retried by {actor}")):
            break
        job = yield from found_job(app, job_id)
        if job.state == JobState.FAILED:
            _check(app, (yield queries.jobs.read_ended(job_id)))
            if (yield queries.dead.redrive(0, [job_id], f"redriven by {actor}", {})):
                break
            if (yield from revive_with(app, [job_id], f"redriven by {actor}", strict=True)).done:
                break
        elif job.state == JobState.CANCELLED:
            _check(app, (yield queries.jobs.read_ended(job_id)))
            if (yield queries.jobs.restore([job_id], f"brought back by {actor}")):
                break
            if (yield from revive_with(app, [job_id], f"brought back by {actor}", strict=True)).done:
                break
        elif job.phase != "retrying":
            _refuse(job, "retried", _remedy(job))
    else:
        if job.state in (JobState.FAILED, JobState.CANCELLED) and job.workflow_id is not None:
            raise WorkflowRunning(job.workflow_id)  # a callback, while somebody else retries its workflow
    return (yield from found_job(app, job_id))


def found_job(app: AppParts, job_id: int) -> Steps[Job]:
    """Return a job. Raises UnknownJob."""
    job: Job | None = yield app.queries.jobs.get(job_id)
    if job is None:
        raise UnknownJob(f"no job {job_id}: never committed, or dropped by retention")
    return job


def _check(app: AppParts, found: Candidate | None) -> None:
    if found is not None:
        check_arguments(app, found)


_NOT_RETRIED = {
    "running": "cancel it first, or wait for its end",
    "succeeded": "enqueue it again",
    "blocked": "it waits for something else: see `pgqueue jobs why`",
    "scheduled": "promote it",
    "sleeping": "it goes on when its time has come: see `pgqueue jobs why`",
    "waiting": "it waits for something else: see `pgqueue jobs why`",
    "pending": "it is due, and waits for a worker: see `pgqueue jobs why`",
    "failed": "retry it",
    "cancelled": "retry it",
}


def _remedy(job: Job) -> str:
    if job.waits_for_turn and job.phase == "blocked":
        return "it is due, and waits for its turn: see `pgqueue jobs why`"
    return _NOT_RETRIED.get(job.phase, "")


def _refuse_place(job: Job, priority: int | None) -> None:
    """Raise WrongState for another priority of a job in order: it would go before or after the others of its key."""
    if priority is not None and priority != job.priority and job.flow is not None and job.flow.in_order:
        why = f"runs in the order of {job.flow.order}, where all jobs have one priority: leave the priority out"
        raise WrongState(job.id, job.phase, why)


def _refuse(job: Job, done: str, remedy: str) -> NoReturn:
    raise WrongState(job.id, job.phase, f"is {job.phase} and cannot be {done}{remedy and ': '}{remedy}")


def check_edit(changes: Mapping[str, Any] | None, options: EditOptions) -> dict[str, Any]:
    """Return what an edit changes beside arguments. Raises InvalidOption if it changes nothing, or cannot be done."""
    if changes is not None:
        check_changes(changes)
    given = {name: options.get(name) for name in Edit._fields if options.get(name) is not None}
    if not changes and not given:
        raise InvalidOption("an edit that changes nothing: give arguments, a queue, a priority, a run time or a delay")
    if "run_at" in given and "delay" in given:
        raise InvalidOption("run_at and delay exclude each other: give one of them")
    return check_options(given)
