"""Duties: what a process does again and again, and one contract for starting and stopping all of them."""

import asyncio
import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.db.link import Link
from pgqueue.queries.base import does_answer
from pgqueue.timing import Backoff, monotonic

T = TypeVar("T")

log = logging.getLogger("pgqueue")


class Duty(ABC):
    """A duty of a process: `step` does it once and returns the seconds to wait before the next step.

    The first failure of a step is logged, the step is tried again with backoff, and its next success is logged. That
    holds for every exception: a fault in one duty ends neither the process nor the other duties, and the age of its
    last success, in the health probe and in `pgqueue workers`, shows that it fails. `wake` ends a wait. `name` is shown
    in logs, by the health probe and by `pgqueue workers`.

    After a failure a step is a success only if the database has answered since: a step that found nothing to do has
    not shown that anything works. `others` are links beside the duty's own that its steps use.
    """

    name = "duty"
    interruptible = False  # whether a step may be cut off at any point when the process stops
    uses_database = True

    def __init__(self, link: Link, *others: Link) -> None:
        self.link = link
        self._links = (link, *others)
        self.succeeded_at = 0.0  # by the monotonic clock; 0 before the first time
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._backoff = Backoff()
        self.rest: Callable[[], float] = _no_rest  # the least seconds between two steps, unless it is woken
        self.tells: Callable[[Duty, Exception | None], bool] = _tells  # whether the log tells of a failure, or its end

    @abstractmethod
    async def step(self) -> float:
        """Do the duty once; return the seconds to wait."""

    def wake(self) -> None:
        """Run the next step now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the step in progress."""
        self._stopping.set()
        self._wake.set()

    def rests(self) -> bool:
        """Whether the duty waits for another part of the process, so that it asks the database nothing now."""
        return False

    async def run(self) -> None:
        """Make step after step until stopped."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                before = self._answers()
                delay = await self.step()
                if not self._backoff.failures or await self._works(before):
                    self._succeeded()
                await _wait(self._wake, max(delay, self.rest()))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must end nothing but this step
                if self.interruptible and self._stopping.is_set():
                    return  # that was the interruption
                await _wait(self._stopping, self._failed(error))

    def _answers(self) -> int:
        return sum(link.answers for link in self._links)

    async def _works(self, before: int) -> bool:
        """Return whether a step that follows a failure is a success. If it asked the database nothing, ask whether it
        answers: the next step that needs it may be an hour away, and the duty would look stuck until then."""
        if not self.uses_database or self._answers() > before:
            return True
        if self.rests() or self._stopping.is_set():
            return False
        await self.link.run(does_answer())
        return True

    def _succeeded(self) -> None:
        self.succeeded_at = monotonic()
        if self._backoff.failures:
            self._backoff.reset()
            if self.tells(self, None):
                log.info("%s works again", self.name)

    def _failed(self, error: Exception) -> float:
        delay = self._backoff.next()
        if self._backoff.failures == 1 and self.tells(self, error):
            log.warning("%s failed, trying again: %s: %s", self.name, type(error).__name__, brief(error))
            if not isinstance(error, DATABASE_ERRORS):
                log.error("%s has a fault, please report it: %s", self.name, _where(error))
        return delay


def _no_rest() -> float:
    return 0.0


def _tells(_: Duty, __: Exception | None) -> bool:
    return True


def _where(error: Exception) -> str:
    """Return the lines at which an error passed, innermost last: without its message, which may quote a job's data."""
    lines = traceback.extract_tb(error.__traceback__)
    return " > ".join(f"{Path(line.filename).name}:{line.lineno} {line.name}" for line in lines)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    if seconds <= 0:
        await asyncio.sleep(0)  # lets other tasks run
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for would make a task each time
            await event.wait()


def hide(task: "asyncio.Task[T]") -> "asyncio.Task[T]":
    """Hide a task of this process from `asyncio.all_tasks()`: a job that cancels all of them does not reach it."""
    asyncio._unregister_task(task)
    return task


async def run_duties(duties: Sequence[Duty], stopping: asyncio.Event, grace_seconds: float = 5.0) -> None:
    """Run duties side by side until `stopping` is set or one of them fails for a reason that is not tried again.

    Each may finish its step. If that takes longer than the grace, its connection is cut. Raises the error of a duty
    that failed. Ends within the grace and two seconds, whatever the database does.
    """
    running = {hide(asyncio.create_task(duty.run(), name=duty.name)): duty for duty in duties}
    stopped = hide(asyncio.create_task(stopping.wait()))
    try:
        await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        for task in running:
            task.cancel()
        raise
    finally:
        stopped.cancel()
    for duty in duties:
        duty.stop()
        if duty.interruptible:
            duty.link.sever()
    _, hanging = await asyncio.wait(running, timeout=grace_seconds)
    for task in hanging:
        log.warning("%s hangs: its connection is cut", running[task].name)
        running[task].link.sever()
    if hanging:
        _, hanging = await asyncio.wait(hanging, timeout=1)
    for task in hanging:
        task.cancel()  # it was connecting
    done, _ = await asyncio.wait(running, timeout=1)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
