"""The worker process: puts its duties together, and takes them apart in order."""

import asyncio
import faulthandler
import inspect
import logging
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from pgqueue.app import App, Hook
from pgqueue.config import check_queue, check_seconds
from pgqueue.errors import InvalidOption
from pgqueue.events import WorkerStarted, WorkerStopped
from pgqueue.health import Health
from pgqueue.identity import Identity, describe
from pgqueue.link import DATABASE_ERRORS, DEADLINE, Link, monotonic
from pgqueue.service import Partitions, Service, run_duties
from pgqueue.worker.announcer import Announcer
from pgqueue.worker.attempts import Attempts
from pgqueue.worker.children import Children, ChildSettings
from pgqueue.worker.completion import Completion
from pgqueue.worker.expiry import Pruner
from pgqueue.worker.frontier import Frontier
from pgqueue.worker.listener import Listener
from pgqueue.worker.lookout import Lookout
from pgqueue.worker.producer import Diet, Producer
from pgqueue.worker.progress import Reporter
from pgqueue.worker.rescue import Rescuer
from pgqueue.worker.resolver import Resolver
from pgqueue.worker.slots import Slots
from pgqueue.worker.sweep import Sweeper
from pgqueue.worker.watch import Canceller, Watch

log = logging.getLogger("pgqueue.worker")
LINKS = ("claim", "look", "resolve", "chores")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker runs. Durations are seconds.

    `queues` are served in order; `limits` says how many jobs of a queue this worker runs at most at a time.
    A worker that has not beaten for `lease_seconds` is declared lost and its jobs run again elsewhere. A stopping
    worker gives its jobs `shutdown_timeout` to end. A child process is replaced after `max_jobs_per_child` jobs, or
    when it has grown beyond `max_memory_per_child` MiB.
    """

    queues: Sequence[str] = ("default",)
    concurrency: int = 8
    limits: Mapping[str, int] = field(default_factory=dict)
    lease_seconds: float = 30.0
    poll_seconds: float = 1.0
    shutdown_timeout: float = 30.0
    max_jobs_per_child: int | None = None
    max_memory_per_child: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.queues, str) or not self.queues:
            raise InvalidOption(f"queues={self.queues!r} cannot be used: give a list of names")
        check_seconds("lease_seconds", self.lease_seconds, 0.1)
        check_seconds("poll_seconds", self.poll_seconds, 0.01)
        check_seconds("shutdown_timeout", self.shutdown_timeout, 0.0)


class Worker:
    """One worker process. Making one checks its settings; `run` does the work."""

    def __init__(self, app: App, settings: WorkerSettings | None = None) -> None:
        settings = settings or WorkerSettings()
        queues = tuple(dict.fromkeys(check_queue(queue) for queue in settings.queues))
        self._app = app
        self._settings = settings
        self._slots = Slots(settings.concurrency, queues, settings.limits)
        self._diet = Diet(queues, tuple(app.tasks.names()), app.tasks.versions())
        self._stopping = asyncio.Event()
        self._cutting = asyncio.Event()
        self._shift: Shift | None = None
        self._prepared = False
        limits = (settings.max_jobs_per_child, settings.max_memory_per_child)
        starters = tuple(app.child_starters)
        self._children = Children(
            app.tasks, ChildSettings(*limits, on_start=starters), partial(Completion, app, pooled=False)
        )

    def prepare(self) -> None:
        """Fork what child processes are forked from, if a task wants them: best before there is an event loop."""
        if not self._prepared and any(spec.isolation == "process" for spec in self._app.tasks):
            self._children.start()
        self._prepared = True

    def stop(self) -> None:
        """First call: take no more jobs and finish those that run. Second call: cancel them and give them back."""
        if self._stopping.is_set():
            self._cutting.set()
        self._stopping.set()

    def quiet(self) -> None:
        """Take no more jobs, but go on running."""
        if self._shift is not None:
            self._shift.producer.pause("quiet")
            log.info("quiet: no more jobs are taken")

    def dump(self) -> None:
        """Write what every thread, every task and every job is doing to stderr and the log."""
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for running in self._slots.running:
            if running.task is not None:
                running.task.set_name(f"pgqueue job {running.job.id}")
        for task in asyncio.all_tasks():
            task.print_stack(limit=5)
        log.info("running jobs: %s", ", ".join(str(r.job.id) for r in self._slots.running) or "none")

    def health(self) -> Health:
        """How this worker is: live while its heartbeat gets through, ready while it claims."""
        if self._shift is None or self._stopping.is_set():
            return Health(live=True, ready=False)
        return self._shift.health()

    async def run(self) -> bool:
        """Work until stopped. Returns whether all that ran has ended; False if threads had to be left behind.

        Raises DatabaseUnreachable or NotMigrated if it cannot start.
        """
        self.prepare()
        for hook in self._app.worker_starters:
            await _call(hook)
        self._shift = shift = Shift(
            self._app, self._settings, self._slots, self._diet, self._children, self._stopping.set
        )
        await shift.start()
        try:
            await run_duties(shift.duties, self._stopping, grace_seconds=2.0)
        finally:
            self._stopping.set()
            await shift.end(self._cutting)
            for hook in self._app.worker_stoppers:
                try:
                    await _call(hook)
                except Exception as error:
                    log.error("a hook on the worker's stop raised %s", type(error).__name__, exc_info=error)
        return not self._slots.running


async def _call(hook: Hook) -> None:
    answer = hook()
    if inspect.isawaitable(answer):
        await answer


class Shift:
    """A running worker: its identity, its connections and its duties."""

    def __init__(
        self,
        app: App,
        settings: WorkerSettings,
        slots: Slots,
        diet: Diet,
        children: Children,
        on_broken: Callable[[], None],
    ) -> None:
        database, queries, loop = app.database, app.queries, asyncio.get_running_loop()
        info = describe("worker", settings.lease_seconds, diet.queues, app.tasks.announced(), slots.total)
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
        lookout = Lookout(self._links["look"], queries, self.identity, slots, frontier, self._attempts.take)
        self.producer = Producer(
            self._links["claim"],
            queries,
            self.identity,
            slots,
            diet,
            settings.poll_seconds,
            frontier,
            lookout,
            self._attempts.take,
            self._attempts.held,
        )
        self._watch = Watch(chores, self.identity, self._silent, self._heard)
        self.duties: list[Service] = [self.producer, lookout, self._watch, reporter, *self._chores(app, diet.queues)]

    def _chores(self, app: App, queues: Sequence[str]) -> Iterator[Service]:
        """What is done besides running jobs, on one connection; and listening for it, on another."""
        link, queries, identity, emit = self._links["chores"], self._queries, self.identity, self._emit
        yield (canceller := Canceller(link, queries, identity, self._attempts.cancel, self._attempts.held))
        yield (rescuer := Rescuer(link, queries, identity, app.max_crashes, app.tasks, self.producer.wake, emit))
        yield Partitions(link, queries)
        yield Sweeper(link, queries, identity, emit)
        yield Pruner(link, queries, app.tasks)
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
                await self._links["chores"].run(self._queries.set_stopping(self.identity.id), deadline=2.0)
            await self._ended(cutting)
            if self._slots.running:
                await self._attempts.cut_off()

    async def _finish_writing(self) -> None:
        """Write what is left to write, and give back claims that were never answered."""
        drained = asyncio.create_task(self._resolver.drained())
        await asyncio.wait([drained, self._writing], timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        with suppress(*DATABASE_ERRORS):
            strays = self._queries.release_strays(self.identity.id, self._attempts.held())
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
