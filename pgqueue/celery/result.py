"""Results in Celery's words: the state of a job, its value or error, and verbs on it."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from pgqueue.celery import states
from pgqueue.celery.exceptions import TaskError, TaskRevokedError, known_error
from pgqueue.celery.options import tag_of
from pgqueue.celery.parts import Adapter, current_adapter
from pgqueue.celery.request import current_request
from pgqueue.celery.values import read
from pgqueue.error_info import ErrorInfo
from pgqueue.errors import InvalidOption, JobFailed, JobWasCancelled, UnknownJob, WaitTimeout
from pgqueue.jobs.job import Job, JobState
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.tasks.call_shape import POSITIONAL

R_co = TypeVar("R_co", covariant=True)
LOOK_SECONDS = 0.2  # between looks for a job whose id a caller has chosen
SAID = '{"state": '  # how the note of a progress begins that `update_state` has written


class AsyncResult(Generic[R_co]):
    """The result of a task by its id: that of its job, or the `task_id` that its caller has chosen.

    A job that nobody has enqueued, whose transaction has not committed, or that retention has dropped, is PENDING, as
    in Celery. An id of the caller's is looked for among the jobs that have not ended and the newest 200,000 of the
    others."""

    parent: Any = None

    def __init__(self, id: str, *, app: Adapter | None = None, task: str | None = None) -> None:  # noqa: A002
        self.id = str(id)
        self._app = app
        self._task = task

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def app(self) -> Adapter:
        """The app that it belongs to."""
        return self._app or current_adapter()

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    def job(self) -> Job | None:
        """Return the job of pgqueue, as the database has it now; None where there is none."""
        pgqueue = self.app.pgqueue
        try:
            return pgqueue.get(int(self.id) if self.id.isdecimal() else self._found().id)
        except UnknownJob:
            return None

    def _found(self) -> Job:
        found = self.app.pgqueue.jobs.list(JobFilter(tag=tag_of(self.id)), 1)
        if not found:
            raise UnknownJob(f"no job with task_id {self.id!r}")
        return found[0]

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE or REVOKED; or what `self.update_state` has said while it runs."""
        job = self.job()
        if job is None:
            return states.PENDING
        said = said_of(job)
        return said[0] if said else states.state_of(job)

    status = state

    @property
    def result(self) -> Any:
        """What the task has returned; the exception, where it has failed or will be tried again; else the meta of
        `update_state`, or None."""
        job = self.job()
        if job is None:
            return None
        if job.state == JobState.SUCCEEDED:
            return read(job.result)
        if job.state == JobState.CANCELLED:
            return TaskRevokedError(job.reason or "revoked")
        said = said_of(job)
        if said:
            return said[1]
        return None if not job.errors else self._exception(job.errors[-1])

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of the last attempt that has failed."""
        job = self.job()
        return job.errors[-1].traceback if job is not None and job.errors else None

    @property
    def name(self) -> str | None:
        """The name of the task."""
        job = self.job()
        return self._task if job is None else job.task

    @property
    def args(self) -> Any:
        """The positional arguments of the call."""
        return self._given()[0]

    @property
    def kwargs(self) -> Any:
        """The named arguments of the call."""
        return self._given()[1]

    @property
    def queue(self) -> str | None:
        """The queue of the job."""
        job = self.job()
        return None if job is None else job.queue

    @property
    def retries(self) -> int | None:
        """How often it was tried again."""
        job = self.job()
        return None if job is None else max(job.attempt - 1, 0)

    @property
    def date_done(self) -> datetime | None:
        """When it has ended."""
        job = self.job()
        return None if job is None else job.finished_at

    @property
    def children(self) -> None:
        """None: a job does not know those that it has enqueued; the headers `parent_id` of those say it."""
        return None

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Whether it has succeeded."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Whether it has failed for good."""
        return self.state == states.FAILURE

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        disable_sync_subtasks: bool = True,
        **waiting: Any,
    ) -> R_co:
        """Wait for the end, at most `timeout` seconds; return what the task has returned, or raise its error.

        Raises exceptions.TimeoutError, TaskRevokedError, and RuntimeError inside of a task, which would hold its slot
        while it waits. Inside the transaction that enqueues the job it can only time out. `interval` and its like have
        no effect: a wait ends as soon as the job does.
        """
        _check_waiting(waiting)
        refuse_in_tasks(disable_sync_subtasks)
        try:
            return self._waited(timeout)  # type: ignore[no-any-return]
        except (TaskError, TaskRevokedError, WaitTimeout):
            if propagate or not self.ready():
                raise
        except Exception:
            if propagate:
                raise
        return self.result  # type: ignore[no-any-return]

    wait = get

    def _waited(self, timeout: float | None) -> Any:
        began = time.monotonic()
        job_id = int(self.id) if self.id.isdecimal() else self._looked_for(timeout)
        timeout = None if timeout is None else max(timeout - (time.monotonic() - began), 0.001)
        try:
            return read(self.app.pgqueue.wait(job_id, timeout))
        except JobFailed as failure:
            raise self._exception(failure.error) from failure
        except JobWasCancelled as end:
            self._raise_of_parents()
            raise TaskRevokedError(f"job {job_id} was cancelled: {end.reason}") from None

    def _looked_for(self, timeout: float | None) -> int:
        """Return the job with an id that a caller has chosen, once its transaction has committed."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._found().id
            except UnknownJob:
                if time.monotonic() >= until:
                    raise WaitTimeout(f"no job with task_id {self.id!r} was committed within {timeout:g} s") from None
            time.sleep(min(LOOK_SECONDS, max(until - time.monotonic(), 0.0)))

    def _raise_of_parents(self) -> None:
        """Raise the error of what it came after, if that has failed."""
        parent = self.parent
        while parent is not None:
            for each in parent if isinstance(parent, GroupResult) else [parent]:
                if each.failed():
                    raise each.result
            parent = parent.parent

    def maybe_throw(self, propagate: bool = True) -> Any:
        """Raise the error of a task that has failed; return the result of any other."""
        found = self.result
        if propagate and self.state in states.PROPAGATE_STATES and isinstance(found, BaseException):
            raise found
        return found

    def revoke(self, terminate: bool = False, **other: Any) -> None:
        """Cancel the job if it waits; with `terminate`, also ask the worker of one that runs to stop it: a child
        process is killed, a coroutine cancelled, a thread stops where the task calls
        `self.request.context.check()`."""
        job = self.job()
        if job is None or job.state.is_terminal or (job.state == JobState.RUNNING and not terminate):
            return
        try:
            self.app.pgqueue.cancel(job.id)
        except UnknownJob:
            return  # it has ended meanwhile

    def forget(self) -> None:
        """Drop what the task has returned, also of what it came after. The job stays, and its state with it.

        A workflow that goes on gets it all the same: then it goes as soon as nobody may read it. Does nothing for a job
        that has not ended, has failed, or is gone.
        """
        if self.parent is not None:
            self.parent.forget()
        job = self.job()
        if job is None or job.state != JobState.SUCCEEDED:
            return
        try:
            self.app.pgqueue.drop_result(job.id)
        except UnknownJob:
            return  # retention has dropped it meanwhile

    def _given(self) -> tuple[Any, Any]:
        job = self.job()
        if job is None:
            return None, None
        task = self.app.tasks.get(job.task)
        if task is None:
            return (), read(job.args)
        return task.shape.given(read(job.args), job.headers.get(POSITIONAL))

    def _exception(self, error: ErrorInfo | None) -> BaseException:
        if error is None:
            return TaskError("the task has failed without an error")
        task = self.app.tasks.get(self._task or self.name or "")
        return known_error(error, () if task is None else (*task.throws, *task.autoretry_for))


class EagerResult(AsyncResult[R_co]):
    """The result of a task that ran where it was called."""

    def __init__(self, task: str, task_id: str, state: str, value: Any, traceback: str | None = None) -> None:
        super().__init__(task_id, task=task)
        self._state, self._value, self._traceback = state, value, traceback

    @property
    def state(self) -> str:
        """SUCCESS, FAILURE, RETRY or REVOKED."""
        return self._state

    status = state

    @property
    def result(self) -> Any:
        """What the task has returned, or the exception that it has raised."""
        return self._value

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of the exception."""
        return self._traceback

    def job(self) -> None:
        """Return None: there is no job."""

    def get(self, timeout: float | None = None, propagate: bool = True, **waiting: Any) -> Any:
        """Return what the task has returned, or raise its error."""
        if propagate and isinstance(self._value, BaseException) and self._state in states.PROPAGATE_STATES:
            raise self._value
        return self._value

    wait = get

    def revoke(self, terminate: bool = False, **other: Any) -> None:
        """Do nothing: it has ended."""

    def forget(self) -> None:
        """Do nothing: nothing is kept."""


class GroupResult:
    """The results of the members of a group, in order. `id` is that of the workflow."""

    parent: Any = None

    def __init__(self, id: str | None, results: Sequence[Any]) -> None:  # noqa: A002
        self.id = id
        self.results = list(results)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(str(each) for each in self.results)}]>"

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, at: int) -> Any:
        return self.results[at]

    @property
    def children(self) -> list[Any]:
        """The results of its members."""
        return self.results

    def ready(self) -> bool:
        """Whether all members have ended."""
        return all(each.ready() for each in self.results)

    def successful(self) -> bool:
        """Whether all members have succeeded."""
        return all(each.successful() for each in self.results)

    def failed(self) -> bool:
        """Whether a member has failed for good."""
        return any(each.failed() for each in self.results)

    def waiting(self) -> bool:
        """Whether a member has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """Return how many members have succeeded."""
        return sum(each.successful() for each in self.results)

    def get(self, timeout: float | None = None, propagate: bool = True, **waiting: Any) -> list[Any]:
        """Wait for all members; return what they have returned, in order. Raises the error of the first that failed.

        `timeout` is that of each wait.
        """
        return [each.get(timeout, propagate, **waiting) for each in self.results]

    join = get

    def revoke(self, terminate: bool = False, **other: Any) -> None:
        """Cancel the members that wait; with `terminate`, also ask those that run to stop."""
        for each in self.results:
            each.revoke(terminate)

    def forget(self) -> None:
        """Drop what the members have returned, as `AsyncResult.forget`."""
        for each in self.results:
            each.forget()


ResultSet = GroupResult


def said_of(job: Job) -> tuple[str, Any] | None:
    """Return the state and the meta that a running task has said by `update_state`."""
    note = (job.progress or {}).get("note") if job.state == JobState.RUNNING else None
    if not note or not note.startswith(SAID):
        return None
    said = json.loads(note)
    return said["state"], read(said.get("meta"))


def refuse_in_tasks(refused: bool) -> None:
    """Raise RuntimeError inside of a task: a wait there holds its slot, and may never end."""
    request = current_request.get()
    if refused and request is not None and not request.called_directly and not request.is_eager:
        raise RuntimeError(
            "result.get() in a task would hold its slot while it waits: use a chain, a chord or link=, or say "
            "disable_sync_subtasks=False"
        )


_WAITING = frozenset({"callback", "on_message", "on_interval", "EXCEPTION_STATES", "PROPAGATE_STATES"})


def _check_waiting(waiting: dict[str, Any]) -> None:
    for name, value in waiting.items():
        if name in _WAITING and value is not None:
            raise InvalidOption(f"get({name}=…) has no place here: link= runs a task with the result")
        if name not in {*_WAITING, "interval", "no_ack", "follow_parents"}:
            raise InvalidOption(f"get() has no option {name!r}")
