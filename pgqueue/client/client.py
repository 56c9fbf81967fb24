"""A client: the verbs that take a task by its name, and those that publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgqueue.client.app_parts import AppParts
from pgqueue.client.bulk import cancel_all, check_reason
from pgqueue.client.changes import OperatorVerbs
from pgqueue.client.enqueueing import EnqueueVerbs, Insertion
from pgqueue.client.inserting import JobInserter, new_job
from pgqueue.client.publishing import PublishVerbs
from pgqueue.client.settings import CallSettings
from pgqueue.client.signalling import SignalVerbs
from pgqueue.client.steps import Steps, verb
from pgqueue.client.task import Task
from pgqueue.client.waiting import possible_id
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, UnknownJob
from pgqueue.jobs.job import Job, JobState, NewJob
from pgqueue.jobs.keys import key_hashes
from pgqueue.queries.jobs.keys import KeyHolder
from pgqueue.tasks.spec import TaskSpec
from pgqueue.tasks.storable import encode_unregistered


class Client(EnqueueVerbs, OperatorVerbs, SignalVerbs, PublishVerbs):
    """The verbs that take a task by name, and those that send signals and publish events. `app.using(conn, …)` makes
    one; its options apply to each job."""

    def __init__(self, app: AppParts, conn: object, settings: CallSettings) -> None:
        self._app = app
        self._runner = JobInserter(app, conn)
        self._settings = settings

    @verb
    def get(self, job_id: int) -> Steps[Job]:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        job: Job | None = yield self._app.queries.jobs.get(possible_id(job_id))
        if job is None:
            raise UnknownJob(f"no job {job_id}: never committed, or dropped by retention")
        return replace(job, handle=self._runner.handle)

    aget = get.twin

    @verb
    def find(self, task: str, idempotency_key: str) -> Steps[Job]:
        """Return the job of a task that holds an idempotency key, as `get` does: an id that its caller has chosen.

        A key leads to its job until its window ends. Raises UnknownJob.
        """
        check_name("task", task)
        spec = self._app.tasks.get(task)
        if not isinstance(idempotency_key, str):
            raise InvalidOption(f"idempotency_key={idempotency_key!r:.100} cannot be found: give a text")
        (key,) = key_hashes(task if spec is None else spec.name, [idempotency_key])
        holder: KeyHolder | None = yield self._app.queries.jobs.find_key_holder(key)
        if holder is None or holder.expired:
            raise UnknownJob(
                f"no job of task {task} holds the idempotency key {idempotency_key!r:.200}: it was never committed, or "
                "the window of the key has ended"
            )
        job: Job | None = yield self._app.queries.jobs.get(holder.job_id)
        if job is None:
            raise UnknownJob(f"job {holder.job_id}, which took {idempotency_key!r:.200}, was dropped by retention")
        return replace(job, handle=self._runner.handle)

    afind = find.twin

    @verb
    def cancel(self, job_id: int, reason: str = "cancelled by request") -> Steps[bool]:
        """Cancel a job: True if it was waiting and has ended, False if it runs and its worker is asked to stop it.

        Raises UnknownJob for a job that has ended or never was.
        """
        found = yield from cancel_all(self._app, [possible_id(job_id)], check_reason(reason))
        if not found:
            raise UnknownJob(f"no job {job_id} is waiting or running: it has ended, or was never committed")
        return found[0].state != JobState.RUNNING

    acancel = cancel.twin

    def _insertion(self, given: Sequence[Any], named: Mapping[str, Any]) -> Insertion:
        if given and callable(given[0]):
            return self._runner, self._called(given[0], given[1:], named)
        return self._runner, self.prepared(*given, **named)

    def _called(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> NewJob:
        """Return the job of a function, or of a task of this app."""
        tasks = self._app.tasks
        own = function.spec if isinstance(function, Task) else None
        spec = own if own is not None and tasks.get(own.name) is own else tasks.of_function(function)
        values: list[dict[str, Any]] = []
        return self._job(spec, spec.name, spec.coder.encode(tuple(args), kwargs, values), values[0])

    def prepared(self, task: str, args: Mapping[str, Any] | None = None) -> NewJob:
        """Return the job that `enqueue` would insert for a name. Raises what that raises before it writes."""
        check_name("task", task)
        spec = self._app.tasks.get(task)
        given = {} if args is None else args
        values: list[dict[str, Any]] = []
        if spec is None:
            text = encode_unregistered(task, given, self._app.max_args_bytes)
            values.append(dict(given))
        else:
            text = spec.coder.encode((), given, values)
        if spec is None and self._settings.rules is not None:
            self._settings.rules.check_unregistered(task, given)
        return self._job(spec, task, text, values[0])

    def _job(self, spec: TaskSpec | None, task: str, text: str, values: Mapping[str, Any]) -> NewJob:
        settings = self._settings
        if spec is not None and settings.version not in (None, spec.version):
            raise InvalidOption(
                f"version={settings.version} cannot be used: task {task} is registered here, at version "
                f"{spec.version}, and its arguments are checked as that"
            )
        if spec is not None and (spec.rules is not None or settings.rules is not None):
            settings = replace(settings, rules=spec.rules_of(settings.rules))
        return new_job(text, settings, spec, task, self._app, values)


class LooksAfterJobs:
    """The verbs of an app on one job: those of a client without a connection."""

    if TYPE_CHECKING:

        def using(self) -> Client: ...

    def get(self, job_id: int) -> Job:
        """Return a job with its attempts and their errors. Raises UnknownJob."""
        return self.using().get(job_id)

    async def aget(self, job_id: int) -> Job:
        """The async twin of `get`."""
        return await self.using().aget(job_id)

    def find(self, task: str, idempotency_key: str) -> Job:
        """Return the job of a task that holds an idempotency key, until the key's window ends. Raises UnknownJob."""
        return self.using().find(task, idempotency_key)

    async def afind(self, task: str, idempotency_key: str) -> Job:
        """The async twin of `find`."""
        return await self.using().afind(task, idempotency_key)

    def cancel(self, job_id: int) -> bool:
        """Cancel a job; True if it was waiting and is cancelled now.

        A running job is asked to stop: an async task is cancelled, a task in a thread sees `ctx.cancelled`. The job
        then ends as cancelled, unless it succeeds or fails for good first. Raises UnknownJob for a job that has ended
        or never was.
        """
        return self.using().cancel(job_id)

    async def acancel(self, job_id: int) -> bool:
        """The async twin of `cancel`."""
        return await self.using().acancel(job_id)
