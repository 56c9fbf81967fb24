"""A worker, a scheduler or both inside a process that serves something else: `async with app.worker(): …`."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType

from pgqueue.app import App
from pgqueue.config import EMBEDDED_WORKER, runs_embedded
from pgqueue.errors import InvalidOption, PgqueueError
from pgqueue.jobs.served_queues import read_served_queues, slots_of, with_limits
from pgqueue.process.duty import hide
from pgqueue.process.inside import WorkerOptions
from pgqueue.process.system import new_loop
from pgqueue.scheduler import SchedulerSettings, SchedulerThread
from pgqueue.worker import Worker, WorkerSettings

log = logging.getLogger("pgqueue")
SCHEDULER_SECONDS = 15.0  # in which a scheduler must end


def worker_in(app: App, options: WorkerOptions, *, scheduler: bool) -> "Inside":
    """Return a worker for `app.worker()`, with a scheduler beside it if that is wanted. Raises InvalidOption."""
    settings = worker_settings(options)
    beside = SchedulerSettings(settings.lease_seconds, settings.poll_seconds) if scheduler else None
    return Inside(app, settings, beside)


def scheduler_in(app: App, lease_seconds: float, poll_seconds: float) -> "Inside":
    """Return a scheduler for `app.scheduler()`. Raises InvalidOption."""
    return Inside(app, None, SchedulerSettings(lease_seconds, poll_seconds))


def worker_settings(options: WorkerOptions) -> WorkerSettings:
    """Return the settings of a worker; `queues` may be a text, as `-Q` takes it. Raises InvalidOption."""
    given = WorkerOptions(**options)
    queues = given.get("queues")
    if isinstance(queues, str):
        limits = dict(given.get("limits", {}))
        served = read_served_queues(queues, {*limits, *given.get("shares", {})})
        given["queues"] = [queue.name for queue in served]
        if shares := {queue.name: queue.share for queue in served if queue.share is not None}:
            if given.get("shares"):
                raise InvalidOption(f"shares are given twice, in queues={queues!r:.200} and in shares=…: give one")
            given["shares"] = shares
        given["limits"] = with_limits(served, limits)
        given.setdefault("concurrency", slots_of(served))
    return WorkerSettings(**given)


class Inside:
    """Runs a worker, a scheduler or both while a block lasts.

    `async with`: the worker runs in the event loop of the block, so that its async tasks use what the server has there;
    a task that blocks the loop blocks the server. `with`: in a thread with an event loop of its own. The scheduler has
    a thread of its own in either case. Entering raises DatabaseUnreachable or NotMigrated if they cannot start. Leaving
    lets running jobs end for `shutdown_timeout` seconds, then cancels and releases them. Signals stay with the server.

    A worker that an operator stops, or that cannot go on, ends without the server, and the log says so. The environment
    variable PGQUEUE_EMBEDDED_WORKER=0 turns all of it off, for processes that only serve.
    """

    def __init__(self, app: App, worker: WorkerSettings | None, scheduler: SchedulerSettings | None) -> None:
        self._app = app
        self._settings, self._schedules = worker, scheduler
        self._running: tuple[Worker, asyncio.Task[bool]] | None = None
        self._scheduler: SchedulerThread | None = None
        self._entered = False
        self._leave: Callable[[], object] = lambda: None  # of a block in a thread
        self._left = threading.Event()

    async def __aenter__(self) -> None:
        self._enter_once()
        await self._start()

    def _enter_once(self) -> None:
        if self._entered:
            raise InvalidOption("this worker runs already: make another one for another block")
        self._entered = True

    async def _start(self) -> None:
        try:
            if not runs_embedded():
                log.info("no worker runs in process %d: %s=0", os.getpid(), EMBEDDED_WORKER)
                return
            if self._settings is not None:
                await self._start_worker(self._settings)
            if self._schedules is not None:
                self._scheduler = SchedulerThread(self._app, self._schedules)
                self._scheduler.start(lambda: None)  # it logs why it has ended, and the server goes on
                await asyncio.wrap_future(self._scheduler.started)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise

    async def _start_worker(self, settings: WorkerSettings) -> None:
        worker = Worker(self._app, settings)
        running = hide(asyncio.create_task(worker.run(), name="pgqueue worker"))
        started = hide(asyncio.create_task(worker.started.wait()))
        self._running = worker, running
        try:
            await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
        finally:
            started.cancel()
        if running.done():
            self._running = None
            await running  # raises why it could not start
        running.add_done_callback(self._tell_of_end)
        log.info("process %d runs a worker beside its server, for queues %s", os.getpid(), ", ".join(settings.queues))

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if self._running is not None:
                await self._stop_worker(*self._running)
        finally:
            if self._scheduler is not None:
                self._scheduler.stop()
                await asyncio.to_thread(_joined, self._scheduler)
            self._running = self._scheduler = None
            self._entered = False

    async def _stop_worker(self, worker: Worker, running: "asyncio.Task[bool]") -> None:
        running.remove_done_callback(self._tell_of_end)
        worker.finish()
        try:
            ended = await asyncio.shield(running)
        except asyncio.CancelledError:
            worker.stop()  # after `finish`: jobs are cancelled and released
            await asyncio.wait([running])
            raise
        except PgqueueError as failure:
            log.error("the worker in process %d has failed: %s", os.getpid(), failure)
            return
        if not ended:
            log.warning("some jobs did not end and are left behind in their threads; they are released")

    def _tell_of_end(self, running: "asyncio.Task[bool]") -> None:
        why = running.exception() if not running.cancelled() else None
        level = logging.INFO if why is None else logging.ERROR
        log.log(level, "the worker in process %d has ended before its server: %s", os.getpid(), why or "it was stopped")

    def __enter__(self) -> None:
        self._enter_once()
        self._left.clear()
        started: Future[None] = Future()
        # A daemon: an exit of the process without leaving the block must not hang.
        threading.Thread(target=self._thread, args=[started], name="pgqueue-worker", daemon=True).start()
        started.result()

    def _thread(self, started: "Future[None]") -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._run_in_thread(started))
        finally:
            self._left.set()

    async def _run_in_thread(self, started: "Future[None]") -> None:
        over = asyncio.Event()
        self._leave = partial(asyncio.get_running_loop().call_soon_threadsafe, over.set)
        try:
            await self._start()
        except BaseException as error:  # noqa: BLE001 - the thread that waits raises it
            started.set_exception(error)
            return
        started.set_result(None)
        await over.wait()
        await self.__aexit__(None, None, None)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._leave()
        self._left.wait()


def _joined(scheduler: SchedulerThread) -> None:
    """Wait for the end of a scheduler, which has logged its failure if it had one."""
    with suppress(Exception):
        scheduler.join(SCHEDULER_SECONDS)
