"""One attempt of a job in a test: the task it sees, and the worker that the task sees."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pgqueue.app import App
from pgqueue.jobs.job import ClaimedJob
from pgqueue.tasks.context import Signals
from pgqueue.tasks.registry import Tasks
from pgqueue.tasks.sealing import seal_progress
from pgqueue.tasks.spec import TaskSpec
from pgqueue.worker.running.completion import Completion
from pgqueue.worker.running.step_host import DirectSteps

T = TypeVar("T")


class RecordingSpec:
    """Stands for the TaskSpec of one attempt, and keeps the exception that the task raised.

    The test wants the exception itself, and an outcome has only its type and message.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self._spec = spec
        self.raised: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spec, name)

    @property
    def isolation(self) -> str:
        """Always a thread: a child process would not be in the test's transaction."""
        return "thread"

    def arguments(self, job: ClaimedJob) -> dict[str, Any]:
        """Decode the arguments of a job."""
        return self._recorded(lambda: self._spec.arguments(job))

    def call(self, arguments: dict[str, Any], context: Any) -> Any:
        """Call the function."""
        result = self._recorded(lambda: self._spec.call(arguments, context))
        return self._awaited(result) if inspect.isawaitable(result) else result

    async def _awaited(self, result: Any) -> Any:
        try:
            return await result
        except BaseException as error:
            self.raised = error
            raise

    def _recorded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            self.raised = error
            raise


class OneTask(Tasks):
    """A registry with the task of one attempt, or with none if that task is not registered."""

    def __init__(self, name: str, spec: RecordingSpec | None) -> None:
        super().__init__()
        if spec is not None:
            self._specs[name] = cast(TaskSpec, spec)


class TestCompletion(Completion):
    """The completion of a job in a test: the test's transaction is around that of a session of the task."""

    outer = True


class AttemptSignals(Signals):
    """The signals of one attempt, and the worker as far as the task reaches it."""

    def __init__(self, app: App) -> None:
        super().__init__(host=self)
        self._app = app
        self.tasks = app.tasks
        self.note: str | None = None

    def completer(self, job: ClaimedJob, signals: Signals) -> Completion:
        """Return the object behind `ctx.transaction()`."""
        return TestCompletion(self._app, job, signals)

    def step_host(self, job: ClaimedJob, signals: Signals) -> DirectSteps:
        """Return what keeps the steps of a job: in the test's transaction, at the time of its clock."""
        return DirectSteps(self._app, job, self.completer(job, signals))

    def note_progress(self, job: ClaimedJob, text: str) -> None:
        """Keep the newest progress."""
        self.note = text if self._app.codec is None else seal_progress(self._app.codec, job.task, text)
