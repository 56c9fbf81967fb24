"""The scheduler process: makes its duties, runs them, and closes them in order."""

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pgqueue.app import App
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.db.link import DEADLINE, Link
from pgqueue.process.counters import ProcessReading
from pgqueue.process.duty import Duty, run_duties
from pgqueue.process.health import Health
from pgqueue.process.heartbeat import Identity, Vitals, describe_process
from pgqueue.process.partitions import PartitionMaker
from pgqueue.process.subscriber import Subscriber
from pgqueue.process.system import new_loop
from pgqueue.queries.workers import Request
from pgqueue.scheduler.declarer import Declarer
from pgqueue.scheduler.listener import ScheduleListener
from pgqueue.scheduler.previewer import Previewer
from pgqueue.scheduler.settings import SchedulerSettings
from pgqueue.scheduler.ticker import Ticker
from pgqueue.tasks.subscription import subscriptions_of
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.scheduler")


class Scheduler:
    """One scheduler process."""

    def __init__(self, app: App, settings: SchedulerSettings | None = None) -> None:
        self._app = app
        self._settings = settings or SchedulerSettings()
        self._stopping = asyncio.Event()
        self.started = asyncio.Event()  # its row is there, and what it has declared
        self._identity: Identity | None = None  # while it runs
        self.health_address: str | None = None  # where its probe answers, for its row
        self.asked_to_stop = False  # by its row, and not by a signal
        self._duties: list[Duty] = []

    def stop(self) -> None:
        """End after the transaction in flight."""
        self._stopping.set()

    @property
    def stops(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def health(self) -> Health:
        """How this scheduler is: live while it works, ready while it reaches the database and looks at schedules."""
        identity = self._identity
        if identity is None or self._stopping.is_set():
            return Health(live=True, ready=False)
        ages = self._ages()
        looked = ages.get(Ticker.name)
        recent = looked is not None and looked < 3 * self._settings.poll_seconds + DEADLINE
        return Health(identity.beats, recent and not identity.overdue, ages)

    def _ages(self) -> dict[str, float | None]:
        """How many seconds ago each duty last worked; None for one that has not worked yet."""
        now = monotonic()
        return {duty.name: round(now - duty.succeeded_at, 3) if duty.succeeded_at else None for duty in self._duties}

    def _follow(self, request: Request) -> None:
        """Do what an operator asks of this scheduler, which can only stop."""
        log.info("%s asks this scheduler to %s", request.by, request.what)
        if request.what == "stop":
            self.asked_to_stop = True
            self.stop()

    def reading(self) -> ProcessReading | None:
        """What this scheduler has done since its start; None before it."""
        return None if self._identity is None else ProcessReading(self._identity.failures)

    async def run(self) -> bool:
        """Fire schedules until stopped; returns True. Raises DatabaseUnreachable or NotMigrated if it cannot start."""
        app, database = self._app, self._app.database
        for hook in app.own_work_starters:
            hook()
        info = describe_process("scheduler", self._settings.lease_seconds, [], [], 0)
        info = replace(info, release=app.release, health_address=self.health_address)
        identity = Identity(database, app.queries, info)
        in_loop = asyncio.get_running_loop().call_soon_threadsafe
        await asyncio.to_thread(
            identity.start, _log_lost, lambda: Vitals(self._ages()), lambda request: in_loop(self._follow, request)
        )
        links = [Link(database, name) for name in ("pgqueue scheduler", "pgqueue scheduler chores")]
        ticker, declarer = Ticker(app, links[0], self._settings), Declarer(app, links[1])
        previewer = Previewer(app, links[1])
        duties: list[Duty] = [ticker, declarer, previewer, PartitionMaker(links[1], app.queries)]
        declared = subscriptions_of(app.tasks, app.queue, app.retention)
        duties += Subscriber.of(links[1], app.queries, app.name, declared)
        if app.listen_database is not None:
            links.append(Link(app.listen_database, "pgqueue scheduler listen"))
            duties.append(ScheduleListener(app, links[2], identity, [ticker, previewer]))
        try:
            try:
                await declarer.step()
            except DATABASE_ERRORS as error:  # schedules that are rows already fire, and the duty tries again
                log.warning("schedules cannot be declared yet: %s", brief(error))
            count = len(app.schedules)
            log.info("scheduler %s started: %d schedule%s declared here", identity.id, count, "" if count == 1 else "s")
            self._identity, self._duties = identity, duties
            self.started.set()
            once = self._settings.once
            await (ticker.fire_all(self._stopping) if once else run_duties(duties, self._stopping))
        finally:
            self._identity = None
            with suppress(*DATABASE_ERRORS):
                await declarer.leave()
            for link in links:
                await link.close()
            await asyncio.to_thread(identity.stop)
            log.info("scheduler %s stopped", identity.id)
        return True


class SchedulerThread:
    """A scheduler in a thread of its own, so that a task that blocks its worker's event loop delays no tick."""

    def __init__(self, app: App, settings: SchedulerSettings) -> None:
        self._app = app
        self._settings = settings
        self._stop = threading.Event()
        self.started: Future[None] = Future()  # its row is there; or why it cannot start
        self._on_failed: Callable[[], object] = lambda: None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pgqueue-scheduler", daemon=True)

    def start(self, on_failed: Callable[[], None]) -> None:
        """Begin to fire. `on_failed` is called in the event loop of the caller when the scheduler cannot go on."""
        loop = asyncio.get_running_loop()
        self._on_failed = partial(loop.call_soon_threadsafe, on_failed)
        self.started.set_running_or_notify_cancel()  # a waiter that is cancelled does not cancel it
        self._thread.start()

    def stop(self) -> None:
        """End after the transaction in flight."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait for the end. Raises what the scheduler raised."""
        self._thread.join(timeout)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(self._fire())
        except Exception as error:
            log.error("the scheduler of this worker has ended", exc_info=error)
            self._error = error
            if not self.started.done():
                self.started.set_exception(error)
            self._on_failed()

    def _tell_of_start(self, begun: "asyncio.Task[object]") -> None:
        if not begun.cancelled():
            self.started.set_result(None)

    async def _fire(self) -> None:
        scheduler = Scheduler(self._app, self._settings)
        running = asyncio.create_task(scheduler.run())
        stopped = asyncio.create_task(asyncio.to_thread(self._stop.wait))
        running.add_done_callback(lambda _: self._stop.set())
        begun = asyncio.create_task(scheduler.started.wait())
        begun.add_done_callback(self._tell_of_start)
        await stopped
        begun.cancel()
        scheduler.stop()
        await running


def _log_lost(lost: uuid.UUID) -> None:
    log.warning("scheduler %s was declared lost and goes on under a new identity", lost)
