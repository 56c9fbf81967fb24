"""Process events, of jobs, locks, schedules and workers, as typed values; and the listeners that an app calls.

`@app.on(JobDeadLettered)` above a function makes it a listener. Its errors are logged and change nothing. An async
listener runs as a task of the worker's event loop.
"""

import asyncio
import inspect
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from pgqueue.error_info import ErrorInfo
from pgqueue.errors import InvalidOption

log = logging.getLogger("pgqueue.events")


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all process events: a listener to it gets every one. (`pgqueue.Event` is a published event.)"""


@dataclass(frozen=True, slots=True)
class JobEvent(Event):
    """An event of one job."""

    job_id: int
    task: str
    queue: str


@dataclass(frozen=True, slots=True)
class JobEnqueued(JobEvent):
    """A job was inserted. It exists for others once its transaction commits, if it does."""


@dataclass(frozen=True, slots=True)
class JobExpired(JobEvent):
    """The job was not started before it expired, and a worker has cancelled it."""


@dataclass(frozen=True, slots=True)
class WaitingJobCancelled(JobEvent):
    """The job ended as cancelled before it ran: by a caller, and then for others once the caller's transaction commits;
    by the rule of a full bucket; with its workflow; or as *skipped*, because what it waits for cannot come any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class AttemptEvent(JobEvent):
    """An event of one attempt of a job. Events about its end come after the outcome is written."""

    attempt: int
    lease: int
    worker_id: UUID


@dataclass(frozen=True, slots=True)
class JobClaimed(AttemptEvent):
    """A worker has claimed the job."""


@dataclass(frozen=True, slots=True)
class JobStarted(AttemptEvent):
    """The task is about to run."""


@dataclass(frozen=True, slots=True)
class JobSucceeded(AttemptEvent):
    """The success of the job is written. If `ctx.transaction()` has completed the job, the event comes when the task
    has ended, also by an error, which changes nothing any more."""


@dataclass(frozen=True, slots=True)
class JobRetried(AttemptEvent):
    """The attempt failed, and the job runs again in `delay` seconds."""

    delay: float
    error: ErrorInfo | None


@dataclass(frozen=True, slots=True)
class JobDeadLettered(AttemptEvent):
    """The job is a dead letter. `fingerprint` is what errors of one cause have in common."""

    reason: str | None
    error: ErrorInfo | None
    fingerprint: str | None = None

    @property
    def error_class(self) -> str | None:
        """The class of the error, as its module and name; None if the job failed without one."""
        return None if self.error is None else self.error.type


@dataclass(frozen=True, slots=True)
class JobSnoozed(AttemptEvent):
    """The task asked to run later."""

    delay: float


@dataclass(frozen=True, slots=True)
class JobCancelled(AttemptEvent):
    """The job ended as cancelled while it ran."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class JobReplaced(AttemptEvent):
    """The task has returned what is to run in the place of its job. The job ends when that has ended."""


@dataclass(frozen=True, slots=True)
class JobReleased(AttemptEvent):
    """The attempt was given back: its worker stops, or does not know the task."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class StepsUnused(AttemptEvent):
    """The task has returned and did not use these recorded steps: its code has changed since, or took another way."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StaleWrite(AttemptEvent):
    """An outcome was refused: the job was taken from this worker in the meantime."""


@dataclass(frozen=True, slots=True)
class JobRescued(Event):
    """A job was taken from a dead worker. `state` is its new state: pending, failed or cancelled."""

    job_id: int
    state: str


@dataclass(frozen=True, slots=True)
class ScheduleFired(Event):
    """A tick became a job, `lag` seconds after its time. `missed` earlier ticks passed while no scheduler ran."""

    schedule: str
    tick: datetime
    job_id: int
    missed: int
    lag: float = 0.0


@dataclass(frozen=True, slots=True)
class ScheduleMissed(Event):
    """`count` ticks from `first` to `last` passed while no scheduler ran, and did not fire. `reason` is that of the
    last."""

    schedule: str
    first: datetime
    last: datetime
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class ScheduleSkipped(Event):
    """`count` ticks from `first` to `last` did not fire: the schedule was paused, or earlier jobs were unfinished."""

    schedule: str
    first: datetime
    last: datetime
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class LimitReconciled(Event):
    """The counter of a bucket said that `counted` jobs ran, and `running` did: somebody had removed running jobs by
    hand. It is right again."""

    bucket: str
    counted: int
    running: int


@dataclass(frozen=True, slots=True)
class LockEvent(Event):
    """An event of one named lock, in the process of its holder. `job_id`: the job whose task took it, or None."""

    key: str
    token: int
    job_id: int | None


@dataclass(frozen=True, slots=True)
class LockWaited(LockEvent):
    """A named lock was taken `seconds` after it was asked for, because another held it. Its block begins after the
    listeners have returned."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LockLost(LockEvent):
    """A named lock is, or may be, another's, and its block still runs or has just ended: an operator has released it,
    or it was not renewed in time. It comes once: when a renewal finds that out, else at the end of the block."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker is registered and begins to claim."""

    worker_id: UUID


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """A worker has stopped in order."""

    worker_id: UUID


if TYPE_CHECKING:
    JobDied = JobDeadLettered  # the former name
else:

    def __getattr__(name: str) -> type[Event]:
        if name != "JobDied":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn("pgqueue.events.JobDied is called JobDeadLettered now", DeprecationWarning, stacklevel=2)
        return JobDeadLettered


# What happens also in threads without an event loop, which an async listener would need.
_OUTSIDE_OF_LOOPS: dict[type[Event], str] = {
    JobEnqueued: "jobs are enqueued",
    LockWaited: "locks are taken",
    LockLost: "locks are lost",
}
E_ = TypeVar("E_", bound=Event)
JE_ = TypeVar("JE_", bound=JobEvent)
Listener = Callable[[Any], object]


def name_pattern(what: str, given: object) -> re.Pattern[str]:
    """Return what names must match, of a name with `*` for any characters. Raises InvalidOption."""
    if not isinstance(given, str) or not given:
        raise InvalidOption(f"{what}={given!r:.200} cannot be used: give a name, with * for any characters")
    return re.compile(".*".join(re.escape(part) for part in given.split("*")), re.DOTALL)


def only_of(listener: Callable[[JE_], object], tasks: re.Pattern[str]) -> Callable[[JE_], object]:
    """Return a listener that hears only of jobs whose task matches."""

    def listen(event: JE_) -> object:
        return listener(event) if tasks.fullmatch(event.task) else None

    return listen


class Listeners:
    """The listeners of one app, by kind of event."""

    def __init__(self) -> None:
        self._listeners: defaultdict[type[Event], list[Listener]] = defaultdict(list)
        self._running: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        """Whether there is a listener to any event."""
        return bool(self._listeners)

    def add(self, kind: type[Event], listener: Listener) -> None:
        """Call `listener` for each event of a class or its subclasses. Raises InvalidOption."""
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise InvalidOption(f"{kind!r} is no event: give a class of pgqueue.events")
        if inspect.iscoroutinefunction(listener):
            for event, what in _OUTSIDE_OF_LOOPS.items():
                if issubclass(event, kind):
                    raise InvalidOption(
                        f"an async function cannot listen to {kind.__name__}: {what} where no event loop runs, too"
                    )
        self._listeners[kind].append(listener)

    def emit(self, event: Event) -> None:
        """Call the listeners to an event. Raises nothing."""
        if not self._listeners:
            return
        for kind in type(event).__mro__:
            for listener in self._listeners.get(kind, ()):
                self._call(listener, event)

    async def finished(self) -> None:
        """Wait until the async listeners that are running have ended."""
        while self._running:
            await asyncio.wait(self._running)

    def _call(self, listener: Listener, event: Event) -> None:
        try:
            result = listener(event)
            if inspect.iscoroutine(result):
                task = asyncio.get_running_loop().create_task(_finish(result, event))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        except Exception as error:  # noqa: BLE001 - a listener's error changes nothing
            _complain(error, event)


async def _finish(coroutine: Any, event: Event) -> None:
    try:
        await coroutine
    except Exception as error:  # noqa: BLE001 - as above
        _complain(error, event)


def _complain(error: Exception, event: Event) -> None:
    log.error("a listener to %s raised %s", type(event).__name__, type(error).__name__, exc_info=error)
