"""Workers as operators use them: seen, made quiet, resumed, stopped."""

import asyncio
import builtins
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.steps import OWN_CONNECTION, StepRunner, Steps, verb
from pgqueue.errors import InvalidOption, UnknownWorker
from pgqueue.queries.workers import WorkerStatus
from pgqueue.timing import LIMIT, check_duration, monotonic

LEAST_PREFIX = 4  # characters of an id that may stand for it
LOOK_SECONDS = 0.02  # between two looks for answers


@dataclass(frozen=True, slots=True)
class Pong:
    """What a process has answered: `seconds` after the question, None if it was silent until the timeout."""

    worker: WorkerStatus
    seconds: float | None


class Ping:
    """One question to processes, and their answers so far."""

    def __init__(self, asked: Sequence[WorkerStatus], before: Mapping[UUID, datetime], timeout: float) -> None:
        self._asked, self._before = asked, before
        self._began, self._timeout = monotonic(), timeout
        self._answers: dict[UUID, float] = {}

    @property
    def silent(self) -> list[UUID]:
        """The processes that have not answered."""
        return [worker.id for worker in self._asked if worker.id not in self._answers]

    def is_over(self, beats: Mapping[UUID, datetime]) -> bool:
        """Whether all have answered, or no time is left; `beats` says when each has last beaten."""
        took = monotonic() - self._began
        self._answers |= {one: took for one in self.silent if one in beats and beats[one] > self._before[one]}
        return not self.silent or took >= self._timeout

    def pongs(self) -> list[Pong]:
        """Return the answer of each process."""
        return [Pong(worker, self._answers.get(worker.id)) for worker in self._asked]


class Workers:
    """The verbs on worker and scheduler processes: `app.workers`. Each has an async twin with an `a`.

    `which` is the id of a process or its first characters, a host, or `host:pid`; without it, `everyone=True` must be
    said. What is asked is written into the row of each process, which follows it at once, or with its next heartbeat if
    the notification is lost. A process that starts later is not meant.
    """

    def __init__(self, app: AppParts) -> None:
        self._app = app
        self._runner = StepRunner(app, OWN_CONNECTION)

    @verb
    def list(self) -> Steps[builtins.list[WorkerStatus]]:
        """Return workers and schedulers, also those that were lost within the last hour."""
        found: builtins.list[WorkerStatus] = yield self._app.queries.workers.list()
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def find(self, which: str | UUID) -> Steps[builtins.list[WorkerStatus]]:
        """Return the processes that are meant, also those that were lost within the last hour. Raises UnknownWorker;
        InvalidOption for what begins two ids."""
        found: builtins.list[WorkerStatus] = yield self._app.queries.workers.list()
        return _choose(found, which)

    afind = find.twin

    @verb
    def quiet(
        self, which: str | UUID | None = None, *, everyone: bool = False, by: str | None = None
    ) -> Steps[builtins.list[WorkerStatus]]:
        """Ask workers to claim no more jobs and to go on with the running ones; return those that were asked."""
        return (yield from self._request("quiet", which, everyone, by))

    aquiet = quiet.twin

    @verb
    def resume(
        self, which: str | UUID | None = None, *, everyone: bool = False, by: str | None = None
    ) -> Steps[builtins.list[WorkerStatus]]:
        """Ask quiet workers to claim jobs again, however they came to be quiet; return those that were asked."""
        return (yield from self._request("resume", which, everyone, by))

    aresume = resume.twin

    @verb
    def stop(
        self, which: str | UUID | None = None, *, everyone: bool = False, by: str | None = None
    ) -> Steps[builtins.list[WorkerStatus]]:
        """Ask workers or schedulers to stop, as SIGTERM does: running jobs may end within the shutdown timeout. Asked a
        second time, a worker gives its jobs back at once. Returns those that were asked."""
        return (yield from self._request("stop", which, everyone, by))

    astop = stop.twin

    def ping(self, which: str | UUID | None = None, *, timeout: float | timedelta = 1.0) -> builtins.list[Pong]:
        """Ask processes, or all that live, for a sign of life; return what each has answered within `timeout`.

        The answer is a heartbeat that came after the question, in the process's row: so the process lives, hears
        notifications and reaches the database. One that gets no notifications answers with its next heartbeat, a
        quarter of a lease later at the latest. Raises UnknownWorker. Must not be called in an event loop.
        """
        ping = self._ask(which, timeout)
        while not self._answered(ping):
            time.sleep(LOOK_SECONDS)
        return ping.pongs()

    async def aping(self, which: str | UUID | None = None, *, timeout: float | timedelta = 1.0) -> builtins.list[Pong]:
        """The async twin of `ping`."""
        ping = await self._aask(which, timeout)
        while not await self._aanswered(ping):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)  # nothing tells of a heartbeat
        return ping.pongs()

    @verb
    def tasks(self) -> Steps[dict[UUID, builtins.list[str]]]:
        """Return the names of the tasks that each living worker knows, `name@2` for a second version."""
        found: dict[UUID, builtins.list[str]] = yield self._app.queries.workers.known_tasks()
        return found

    atasks = tasks.twin

    @verb
    def _ask(self, which: str | UUID | None, timeout: float | timedelta) -> Steps[Ping]:
        allowed = check_duration("timeout", timeout, LIMIT)
        found: builtins.list[WorkerStatus] = yield self._app.queries.workers.list()
        chosen = _choose([worker for worker in found if worker.status != "lost"], which)
        before = yield self._app.queries.workers.ping([worker.id for worker in chosen])
        return Ping([worker for worker in chosen if worker.id in before], before, allowed)

    _aask = _ask.twin

    @verb
    def _answered(self, ping: Ping) -> Steps[bool]:
        """Look once for answers; return whether it is over."""
        beats = yield self._app.queries.workers.beats(ping.silent)
        return ping.is_over(beats)

    _aanswered = _answered.twin

    def _request(
        self, what: str, which: str | UUID | None, everyone: bool, by: str | None
    ) -> Steps[builtins.list[WorkerStatus]]:
        if which is not None and not isinstance(which, str | UUID):
            raise InvalidOption(f"{what}: {which!r:.100} cannot be used: give an id, a host or host:pid")
        if (which is None) != everyone:
            raise InvalidOption(f"{what}: say which worker, by id, host or host:pid, or that everyone is meant")
        actor = who(by)
        found: builtins.list[WorkerStatus] = yield self._app.queries.workers.list()
        chosen = _choose([worker for worker in found if worker.status != "lost"], which)
        if what != "stop":
            chosen = _only_workers(chosen, what, named=which is not None)
        asked: builtins.list[UUID] = yield self._app.queries.workers.request([w.id for w in chosen], what, actor)
        return [worker for worker in chosen if worker.id in asked]


def _choose(workers: Sequence[WorkerStatus], which: str | UUID | None) -> builtins.list[WorkerStatus]:
    """Return the processes that are meant. Raises UnknownWorker; InvalidOption for what begins two ids."""
    if which is None:
        return list(workers)
    name = str(which)
    placed = [worker for worker in workers if name in (worker.host, f"{worker.host}:{worker.pid}")]
    if placed:
        return placed
    known = [worker for worker in workers if len(name) >= LEAST_PREFIX and str(worker.id).startswith(name.lower())]
    if len(known) > 1:
        raise InvalidOption(f"{name!r} begins the ids of {len(known)} workers: give more of it")
    if not known:
        raise UnknownWorker(f"no living worker has the id, host or host:pid {name!r:.120}: see `pgqueue workers list`")
    return known


def _only_workers(chosen: Sequence[WorkerStatus], what: str, *, named: bool) -> builtins.list[WorkerStatus]:
    """Return the workers among processes. Raises InvalidOption if a scheduler alone was named."""
    workers = [worker for worker in chosen if worker.kind == "worker"]
    if named and not workers:
        raise InvalidOption(f"{what}: a scheduler claims no jobs. Pause its schedules, or stop it")
    return workers
