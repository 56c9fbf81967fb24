"""What a task may do to survive its worker: recorded steps, sleeps and waits without a slot, and their undoing."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, TypeVar, cast, overload

from pgqueue.errors import InvalidStep
from pgqueue.tasks.calls import TaskCall
from pgqueue.tasks.journal import check_key
from pgqueue.tasks.step_calls import Body, StepCalls, UndoCall
from pgqueue.timing import DELAY, Seconds, check_duration, seconds

R = TypeVar("R")


class DurableContext:
    """The part of a context that is about steps. Code outside of steps runs again whenever the job goes on."""

    __slots__ = ()

    def _steps(self) -> StepCalls:
        raise NotImplementedError

    def step(
        self,
        name: str,
        function: Callable[..., R],
        /,
        *args: Any,
        transaction: bool = False,
        undo: UndoCall | None = None,
        **kwargs: Any,
    ) -> R:
        """Call `function(*args, **kwargs)` once in the life of the job, and return what it returned.

        What it returns is recorded under the name, as JSON, and a later attempt gets that and does not call it. A
        recorded step stays recorded, whichever worker goes on. The function itself may run twice: where the worker dies
        between its end and the record. With `transaction=True` it gets a psycopg connection as its first argument, and
        what it writes there and the record commit together, so it has its effect exactly once.

        `undo`: a call, such as `refund.s(order_id)`, of which a job is enqueued if this one ends as a dead letter or as
        cancelled; the undos of several steps run one after the other, the last step's first.

        A name that is used again in an attempt is recorded as `name#2`, and so on. A step that failed was not used.
        Where the function has an annotation of what it returns, a replay returns that type. Raises InvalidStep for a
        name that is in use at this moment and for a value that cannot be stored, StepMismatch where something else is
        recorded, LeaseLost if the job runs elsewhere by now.
        """
        steps: StepCalls = self._steps()
        result: R = steps.step(name, Body(function, args, kwargs, transaction, undo))
        return result

    @overload
    async def astep(
        self,
        name: str,
        function: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        transaction: bool = False,
        undo: UndoCall | None = None,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def astep(
        self,
        name: str,
        function: Callable[..., R],
        /,
        *args: Any,
        transaction: bool = False,
        undo: UndoCall | None = None,
        **kwargs: Any,
    ) -> R: ...
    async def astep(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        transaction: bool = False,
        undo: UndoCall | None = None,
        **kwargs: Any,
    ) -> Any:
        """The async twin of `step`, for an `async def` function or a plain one, which runs on the event loop."""
        return await self._steps().astep(name, Body(function, args, kwargs, transaction, undo))

    def sleep(self, name: str, duration: Seconds = 0, /, *, days: float = 0, hours: float = 0, minutes: float = 0,
              seconds: float = 0) -> None:  # fmt: skip
        """Sleep, in the whole life of the job once: `ctx.sleep("cool-off", days=3)`, or seconds or a timedelta.

        The end of the sleep is a time of the database's clock, which is recorded. The attempt ends here, and is not
        counted; a later one goes on. So a sleeping job has no slot and no worker, also for months. Below a second the
        task just waits. `finally` blocks run as the attempt ends.
        """
        steps, span = self._steps(), _span(name, duration, days, hours, minutes, seconds)
        steps.perform(steps.journal.sleeping(name, span))

    async def asleep(self, name: str, duration: Seconds = 0, /, *, days: float = 0, hours: float = 0,
                     minutes: float = 0, seconds: float = 0) -> None:  # fmt: skip
        """The async twin of `sleep`."""
        steps, span = self._steps(), _span(name, duration, days, hours, minutes, seconds)
        await steps.aperform(steps.journal.sleeping(name, span))

    def wait_signal(self, name: str, /, *, timeout: Seconds | None = None) -> Any:
        """Return the data of the next signal of this name to this job; None after the timeout.

        Signals that were sent before wait in the job's mailbox: each is taken once, the oldest first. While it waits,
        the job has no slot and no worker. A timeout is recorded: a signal that comes after it is for the next wait.
        """
        steps, span = self._steps(), _timeout(timeout)
        return steps.received(steps.perform(steps.journal.waiting(name, "signal", None, span)))

    async def await_signal(self, name: str, /, *, timeout: Seconds | None = None) -> Any:
        """The async twin of `wait_signal`."""
        steps, span = self._steps(), _timeout(timeout)
        return steps.received(await steps.aperform(steps.journal.waiting(name, "signal", None, span)))

    def wait_event(self, name: str, /, *, key: object, timeout: Seconds | None = None) -> Any:
        """Return the data of the next event of this name and key since the job was enqueued; None after the timeout.

        Somebody has published it by `app.publish(name, data, key=key)`, or told those who wait alone by
        `app.signal_event`. All jobs that wait for it get it, each once, also if it was published before: events are
        kept a week for this.
        """
        steps, span = self._steps(), _timeout(timeout)
        return steps.received(steps.perform(steps.journal.waiting(name, "event", check_key(key), span)))

    async def await_event(self, name: str, /, *, key: object, timeout: Seconds | None = None) -> Any:
        """The async twin of `wait_event`."""
        steps, span = self._steps(), _timeout(timeout)
        return steps.received(await steps.aperform(steps.journal.waiting(name, "event", check_key(key), span)))

    def call(self, name: str, call: TaskCall[R], /) -> R:
        """Enqueue the job of a call, such as `resize.s(7)`, or a canvas, and return its result once it has ended.

        The jobs are inserted in the transaction that records the step, so a replay finds them and inserts none. While
        they run, this job has no slot and no worker; the end of the last one wakes it. Raises CallFailed where one did
        not succeed, InvalidStep for what cannot be called. If this job ends as a dead letter or as cancelled, called
        jobs that have not ended are cancelled.
        """
        steps = self._steps()
        return cast(R, steps.returned(steps.perform(steps.journal.calling(name, (call,), many=False))))

    async def acall(self, name: str, call: TaskCall[R], /) -> R:
        """The async twin of `call`."""
        steps = self._steps()
        return cast(R, steps.returned(await steps.aperform(steps.journal.calling(name, (call,), many=False))))

    def gather(self, name: str, calls: Iterable[TaskCall[R]], /) -> list[R]:
        """Call jobs side by side, as `call` does one, and return the list of their results, in order.

        CallFailed names the first that did not succeed, once all have ended. Of no calls it is an empty list at once.
        """
        steps, given = self._steps(), tuple(calls)
        return steps.returned(steps.perform(steps.journal.calling(name, given, many=True))) if given else []

    async def agather(self, name: str, calls: Iterable[TaskCall[R]], /) -> list[R]:
        """The async twin of `gather`."""
        steps, given = self._steps(), tuple(calls)
        return steps.returned(await steps.aperform(steps.journal.calling(name, given, many=True))) if given else []

    def compensate(self, name: str = "compensate", /) -> None:
        """Undo the recorded steps now, the last one first, and go on: for a job that succeeds without its order.

        It is recorded like a step. The undos are jobs, which this one does not wait for.
        """
        steps = self._steps()
        steps.perform(steps.journal.compensating(name))

    async def acompensate(self, name: str = "compensate", /) -> None:
        """The async twin of `compensate`."""
        steps = self._steps()
        await steps.aperform(steps.journal.compensating(name))

    @property
    def started_version(self) -> int:
        """The version of the task that recorded the first step of this job, to branch on after a deploy; the present
        one before that. An async task asks for it after a step."""
        steps = self._steps()
        if steps.journal.is_loaded:
            return steps.journal.started_version
        steps.perform(steps.journal.loading())
        return steps.journal.started_version


def _span(name: str, duration: Seconds, days: float, hours: float, minutes: float, more: float) -> float:
    try:
        parts = timedelta(days=days, hours=hours, minutes=minutes, seconds=more).total_seconds()
    except (TypeError, OverflowError, ValueError):
        raise InvalidStep(
            f"sleep {name!r:.100} cannot be so long: give numbers of days, hours, minutes, seconds"
        ) from None
    return check_duration("sleep", seconds(duration) + parts, DELAY, InvalidStep)


def _timeout(given: Seconds | None) -> float | None:
    return None if given is None else check_duration("timeout", given, DELAY, InvalidStep)
