"""Pauses: a queue, a task or a limit of which no worker claims jobs, until when, by whom and why."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol, Unpack

from pgqueue.client import pausing, queues
from pgqueue.client.app_parts import AppParts
from pgqueue.client.pausing import Target, What, names_of_task
from pgqueue.client.steps import OWN_CONNECTION, StepRunner
from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.queries import Query
from pgqueue.queries.pauses import Pause
from pgqueue.queries.queues import WorkLeft


class HasParts(Protocol):
    """An app."""

    @property
    def _app(self) -> AppParts: ...


class PauseVerbs:
    """The verbs that let workers claim no jobs of a queue, task or limit, and claim them again.

    They use a connection of pgqueue's own, so that they take effect at once: a pause in a transaction that stays open
    would be none.
    """

    def pause(
        self: HasParts,
        *,
        until: datetime | timedelta | float | None = None,
        why: str | None = None,
        by: str | None = None,
        **what: Unpack[What],
    ) -> list[str]:
        """Let no worker claim jobs of a queue, task, limit, or key of a limit: `pause(task="shop.sync", until=3600)`.

        It lasts until a moment, for a duration (seconds or a timedelta), or until `resume`. Claims that begin after the
        commit take nothing; running jobs go on, and jobs can be enqueued. What is paused already gets the new end,
        reason and actor. Returns what is paused: the queues that match a pattern such as `tenant-*`, or the task with
        its aliases. Raises InvalidOption for an end that has passed, and for a limit that does not exist.
        """
        return _own(self._app).perform(pausing.pause(self._app, what, pausing.pause_settings(until, why, by)))

    async def apause(
        self: HasParts,
        *,
        until: datetime | timedelta | float | None = None,
        why: str | None = None,
        by: str | None = None,
        **what: Unpack[What],
    ) -> list[str]:
        """The async twin of `pause`."""
        return await _own(self._app).aperform(pausing.pause(self._app, what, pausing.pause_settings(until, why, by)))

    def resume(self: HasParts, *, by: str | None = None, **what: Unpack[What]) -> list[str]:
        """End the pause of a queue, task, limit or key, and wake the workers; return what was paused."""
        return _own(self._app).perform(pausing.resume(self._app, what, by))

    async def aresume(self: HasParts, *, by: str | None = None, **what: Unpack[What]) -> list[str]:
        """The async twin of `resume`."""
        return await _own(self._app).aperform(pausing.resume(self._app, what, by))

    def pauses(self: HasParts) -> list[Pause]:
        """Return what is paused now: kind, name, since when, until when, by whom and why."""
        return _own(self._app).run(self._app.queries.pauses.list())

    async def apauses(self: HasParts) -> list[Pause]:
        """The async twin of `pauses`."""
        return await _own(self._app).arun(self._app.queries.pauses.list())

    def drain(
        self: HasParts,
        *,
        only_running: bool = False,
        timeout: float | timedelta | None = None,
        on_look: Callable[[WorkLeft], object] | None = None,
        **what: Unpack[What],
    ) -> bool:
        """Wait until no job of a queue is due and none runs, or none of a task runs; False if `timeout` has passed.

        It changes nothing: workers go on. Of a queue, `only_running` waits for the running jobs alone, as it does of a
        task in any case. `on_look` is called with what each look found. Must not be called in an event loop.
        """
        left = _left(self._app, what)
        drain = queues.Drain(only_running, timeout, on_look)
        while not drain.is_over(_own(self._app).run(left)):
            time.sleep(queues.LOOK_SECONDS)
        return drain.is_drained

    async def adrain(
        self: HasParts,
        *,
        only_running: bool = False,
        timeout: float | timedelta | None = None,
        on_look: Callable[[WorkLeft], object] | None = None,
        **what: Unpack[What],
    ) -> bool:
        """The async twin of `drain`."""
        left = _left(self._app, what)
        drain = queues.Drain(only_running, timeout, on_look)
        while not drain.is_over(await _own(self._app).arun(left)):  # noqa: ASYNC110
            await asyncio.sleep(queues.LOOK_SECONDS)  # nothing tells when a queue is empty
        return drain.is_drained


def _own(app: AppParts) -> StepRunner:
    return StepRunner(app, OWN_CONNECTION)


def _left(app: AppParts, what: What) -> Query[WorkLeft]:
    """Return the statement that counts what a queue or task still has to do. Raises InvalidOption."""
    target = Target.of(what)
    if target.kind == "queue":
        return app.queries.queues.left(check_queue(target.name))
    if target.kind == "task":
        return app.queries.pauses.left(names_of_task(app, target.name))
    raise InvalidOption("a limit cannot be drained: drain the queues or tasks that it is about")
