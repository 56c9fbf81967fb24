"""A worker that runs: its parts put together, and taken apart in order."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress

from pgqueue.app import App
from pgqueue.db.failures import DATABASE_ERRORS
from pgqueue.db.link import DEADLINE, Link
from pgqueue.events import WorkerStarted, WorkerStopped
from pgqueue.process.duty import Duty, run_duties
from pgqueue.process.health import Health
from pgqueue.process.heartbeat import Identity, describe
from pgqueue.process.partitions import Partitions
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.frontier import Frontier
from pgqueue.worker.claiming.full_scan import FullScan
from pgqueue.worker.claiming.producer import Producer, Served
from pgqueue.worker.claiming.slots import Slots
from pgqueue.worker.duties.announcer import Announcer
from pgqueue.worker.duties.canceller import Canceller
from pgqueue.worker.duties.listener import Listener
from pgqueue.worker.duties.progress import Reporter
from pgqueue.worker.duties.rescuer import Rescuer
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.duties.results import ResultPruner
from pgqueue.worker.duties.sweeper import Sweeper
from pgqueue.worker.duties.watchdog import Watchdog
from pgqueue.worker.running.attempts import Attempts
from pgqueue.worker.running.children import Children
from pgqueue.worker.settings import WorkerSettings

log = logging.getLogger("pgqueue.worker")
LINKS = ("claim", "look", "resolve", "chores")


class RunningWorker:
    """A running worker: its identity, its connections and its duties."""

    def __init__(
        self,
        app: App,
        settings: WorkerSettings,
        slots: Slots,
        served: Served,
        children: Children,
        on_broken: Callable[[], None],
    ) -> None:
        database, queries, loop = app.database, app.queries, asyncio.get_running_loop()
        info = describe("worker", settings.lease_seconds, served.queues, app.tasks.announced(), slots.total)
        self._queries = queries
        self._settings = settings
        self._slots = slots
        self._emit = app.listeners.emit
        self._tasks = app.tasks
        self._children = children
        self._links = {name: Link(database, f"pgqueue worker {name}") for name in LINKS}
        self.identity = Identity(
            database, queries, info, lambda lost: loop.call_soon_threadsafe(self._lost, lost), self._look
        )
        self._announcer = Announcer(self._links["resolve"], queries, listens=app.listen_database is not None)
        self._resolver = Resolver(
            self._links["resolve"],
            queries,
            lambda job, delay: self.producer.expect(job, delay),
            lambda: self._attempts.begin(),
            app.listeners,
            app.tasks,
            self._announcer.ended,
        )
        chores = self._links["chores"]
        reporter = Reporter(chores, queries, app.listeners.emit)
        self._attempts = Attempts(
            app,
            slots,
            self._resolver,
            lambda: self.producer.slot_freed(),
            children,
            on_broken,
            reporter,
            self._announcer.ended,
        )
        frontier = Frontier()
        full_scan = FullScan(self._links["look"], queries, self.identity, slots, frontier, self._attempts.take)
        self.producer = Producer(
            self._links["claim"],
            queries,
            self.identity,
            slots,
            served,
            settings.poll_seconds,
            frontier,
            full_scan,
            self._attempts.take,
            self._attempts.held,
        )
        self._watch = Watchdog(chores, self.identity, self._silent, self._heard)
        self.duties: list[Duty] = [self.producer, full_scan, self._watch, reporter, *self._chores(app, served.queues)]

    def _chores(self, app: App, queues: Sequence[str]) -> Iterator[Duty]:
        """What is done besides running jobs, on one connection; and listening for it, on another."""
        link, queries, identity, emit = self._links["chores"], self._queries, self.identity, self._emit
        yield (canceller := Canceller(link, queries, identity, self._attempts.cancel, self._attempts.held))
        yield (rescuer := Rescuer(link, queries, identity, app.max_crashes, app.tasks, self.producer.wake, emit))
        yield Partitions(link, queries)
        yield Sweeper(link, queries, identity, emit)
        yield ResultPruner(link, queries, app.tasks)
        if app.listen_database:
            listening = self._links["listen"] = Link(app.listen_database, "pgqueue worker listen")
            waits = self._announcer.somebody_waits, self._announcer.look
            yield Listener(listening, queries, queues, self.producer.wake, canceller.wake, rescuer.wake, *waits)

    def health(self) -> Health:
        """Look at the duties."""
        claim = self.producer
        recent = claim.succeeded_at > monotonic() - 3 * self._settings.poll_seconds - DEADLINE
        return Health(not self.identity.silent, recent and not claim.paused and not self.identity.silent, self._ages())

    def _ages(self) -> dict[str, float | None]:
        """How many seconds ago each duty last worked; None for one that had nothing to do yet."""
        now = monotonic()
        duties = [*self.duties, self._resolver, self._announcer]
        return {d.name: round(now - d.succeeded_at, 3) if d.succeeded_at else None for d in duties}

    def _look(self) -> dict[str, float | None]:
        """Before each beat, in the heartbeat's thread: see how the others do. Tell when the event loop is blocked."""
        self._watch.look_from_outside()
        return self._ages()

    async def start(self) -> None:
        """Take an identity, and begin to write outcomes."""
        await asyncio.to_thread(self.identity.start)
        self._written = asyncio.Event()
        self._writing = asyncio.create_task(run_duties([self._resolver, self._announcer], self._written))
        self._writing.add_done_callback(self._stop_all)
        info = self.identity.info
        log.info("worker %s started: queues %s; %d slots", info.id, ", ".join(info.queues), info.slots)
        log.info("tasks: %s", ", ".join(info.tasks) or "none")
        unserved = {spec.queue for spec in self._tasks if spec.queue not in info.queues}
        if unserved:
            log.warning("tasks of this app use queues that this worker does not serve: %s", ", ".join(sorted(unserved)))
        self._emit(WorkerStarted(self.identity.id))

    async def end(self, cutting: asyncio.Event) -> None:
        """Wait for the jobs that run, cut off those that do not end, write all outcomes, and let go of everything.

        Whatever fails on the way, the rest is done; it takes the grace and some seconds, also without a database.
        """
        log.info("worker %s is stopping: %d jobs still run", self.identity.id, len(self._slots.running))
        self._attempts.close()
        async with AsyncExitStack() as stack:
            stack.callback(self._emit, WorkerStopped(self.identity.id))
            stack.callback(log.info, "worker %s stopped", self.identity.id)
            stack.callback(self._attempts.release_threads)
            stack.push_async_callback(self._children.close)
            stack.push_async_callback(asyncio.to_thread, self.identity.stop)
            for link in self._links.values():
                stack.push_async_callback(link.close)
            stack.push_async_callback(self._finish_writing)
            with suppress(*DATABASE_ERRORS):
                await self._links["chores"].run(self._queries.workers.set_stopping(self.identity.id), deadline=2.0)
            await self._ended(cutting)
            if self._slots.running:
                await self._attempts.cut_off()

    async def _finish_writing(self) -> None:
        """Write what is left to write, and give back claims that were never answered."""
        drained = asyncio.create_task(self._resolver.drained())
        await asyncio.wait([drained, self._writing], timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        with suppress(*DATABASE_ERRORS):
            strays = self._queries.jobs.release_strays(self.identity.id, self._attempts.held())
            await self._links["claim"].run(strays, deadline=2.0)
        self._written.set()
        await self._writing

    async def _ended(self, cutting: asyncio.Event) -> None:
        """Wait until no job runs, for as long as the settings and whoever stops us allow."""
        waits = [asyncio.create_task(self._slots.emptied()), asyncio.create_task(cutting.wait())]
        timeout = self._settings.shutdown_timeout
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _stop_all(self, _: object) -> None:
        """Take no jobs when outcomes are not written any more."""
        for duty in self.duties:
            duty.stop()

    def _lost(self, identity: uuid.UUID) -> None:
        dropped = self._attempts.abandon(identity)
        log.error("worker %s was declared lost: it drops its %d jobs", identity, dropped)
        self.producer.forget()

    def _silent(self) -> None:
        self.producer.pause("silent")
        self._attempts.abandon()

    def _heard(self) -> None:
        self.producer.resume("silent")
