"""Queues as operators use them: seen, paused, resumed, drained."""

import asyncio
import builtins
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pgqueue.client import pausing
from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, verb
from pgqueue.config import check_queue, check_served_queue
from pgqueue.errors import InvalidOption
from pgqueue.jobs.other_names import OF_QUEUES, tells_of
from pgqueue.queries.queues import QueueLoad, WorkLeft
from pgqueue.timing import LIMIT, check_optional_duration, monotonic

LOOK_SECONDS = 0.5  # between two looks of a drain
EMPTY_SECONDS = 1.0  # for which a queue must have been empty: a claim may have been under way


class Queues:
    """The verbs on queues: `app.queues`. Each has an async twin with an `a`."""

    if not TYPE_CHECKING:
        __getattr__ = tells_of(OF_QUEUES, "app.queues")

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def list(self, pattern: str = "*") -> Steps[builtins.list[QueueLoad]]:
        """Return the queues that hold jobs, are served by name, or were paused once; those that match a pattern."""
        if not isinstance(pattern, str):
            raise InvalidOption(
                f"the pattern {pattern!r:.100} cannot be used: give a queue's name, with * for any text"
            )
        fits = pausing.matcher(pattern)
        found: builtins.list[QueueLoad] = yield self._app.queries.queues.list()
        return [load for load in found if fits(load.queue)]

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def pause(
        self,
        queue: str,
        *,
        until: datetime | timedelta | float | None = None,
        why: str | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Steps[builtins.list[str]]:
        """Let no worker claim jobs of a queue, until a moment, for a duration, or until `resume`; return the queues.

        Claims that begin after the commit take nothing; running jobs go on. A pattern such as `tenant-*` pauses the
        queues that match now, and none that appears later. A queue that is paused already gets the new end, reason and
        actor. `reason` is another word for `why`. Raises InvalidOption for an end that has passed.
        """
        word, given = ("why", why) if reason is None else ("reason", reason)
        check_served_queue(queue)
        return (yield from pausing.pause(self._app, {"queue": queue}, pausing.pause_settings(until, given, by, word)))

    apause = pause.twin

    @verb
    def resume(self, queue: str, *, by: str | None = None) -> Steps[builtins.list[str]]:
        """End the pause of a queue, or of all that match a pattern, and wake the workers; return what was paused."""
        check_served_queue(queue)
        return (yield from pausing.resume(self._app, {"queue": queue}, by))

    aresume = resume.twin

    @verb
    def left(self, queue: str) -> Steps[WorkLeft]:
        """Count the jobs of a queue that are due, up to 10,000, and those that run."""
        found: WorkLeft = yield self._app.queries.queues.left(check_queue(queue))
        return found

    aleft = left.twin

    def drain(
        self,
        queue: str,
        *,
        only_running: bool = False,
        timeout: float | timedelta | None = None,
        on_look: Callable[[WorkLeft], object] | None = None,
    ) -> bool:
        """Wait until no job of a queue is due and none runs; False if that took longer than `timeout`.

        It changes nothing: workers go on, and scheduled jobs stay. `only_running` waits for the running jobs alone,
        after a pause. `on_look` is called with what each look found. Must not be called in an event loop.
        """
        drain = Drain(only_running, timeout, on_look)
        while not drain.is_over(self.left(queue)):
            time.sleep(LOOK_SECONDS)
        return drain.is_drained

    async def adrain(
        self,
        queue: str,
        *,
        only_running: bool = False,
        timeout: float | timedelta | None = None,
        on_look: Callable[[WorkLeft], object] | None = None,
    ) -> bool:
        """The async twin of `drain`."""
        drain = Drain(only_running, timeout, on_look)
        while not drain.is_over(await self.aleft(queue)):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)  # nothing tells when a queue is empty
        return drain.is_drained


class Drain:
    """One wait for a queue to be empty."""

    def __init__(
        self, only_running: bool, timeout: float | timedelta | None, on_look: Callable[[WorkLeft], object] | None
    ) -> None:
        allowed = check_optional_duration("timeout", timeout, LIMIT)
        self._ends_at = None if allowed is None else monotonic() + allowed
        self._only_running = only_running
        self._on_look = on_look
        self._empty_since: float | None = None
        self.is_drained = False

    def is_over(self, left: WorkLeft) -> bool:
        """Whether the queue has been empty for long enough, or no time is left."""
        if self._on_look is not None:
            self._on_look(left)
        now = monotonic()
        if left.running or (left.due and not self._only_running):
            self._empty_since = None
        else:
            self._empty_since = self._empty_since or now
            self.is_drained = now - self._empty_since >= EMPTY_SECONDS
        return self.is_drained or (self._ends_at is not None and now >= self._ends_at)
