"""A worker that runs: makes its parts, connects them, and takes them apart in order."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from pgqueue.db.failures import BROKEN, DATABASE_ERRORS, TIMED_OUT, brief
from pgqueue.db.link import DEADLINE, Link
from pgqueue.errors import DatabaseUnreachable, PgqueueError
from pgqueue.events import WorkerStarted, WorkerStopped
from pgqueue.process.counters import Durations, ProcessReading
from pgqueue.process.duty import Duty, hide, run_duties
from pgqueue.process.health import Health
from pgqueue.process.heartbeat import Vitals
from pgqueue.process.partitions import PartitionMaker
from pgqueue.process.subscriber import Subscriber
from pgqueue.queries.workers import Request
from pgqueue.tasks.subscription import subscriptions_of
from pgqueue.timing import Backoff, monotonic
from pgqueue.worker.claiming.frontier import Frontier
from pgqueue.worker.claiming.full_scan import FullScan
from pgqueue.worker.claiming.producer import Producer
from pgqueue.worker.claiming.queue_finder import QueueFinder
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.duties.activity_writer import ActivityWriter
from pgqueue.worker.duties.announcer import Announcer
from pgqueue.worker.duties.burst import Burst
from pgqueue.worker.duties.canceller import Canceller
from pgqueue.worker.duties.gone_finder import GoneFinder
from pgqueue.worker.duties.input_reader import InputReader
from pgqueue.worker.duties.limit_keeper import LimitKeeper
from pgqueue.worker.duties.listener import Hearing, Listener
from pgqueue.worker.duties.operation_finisher import OperationFinisher
from pgqueue.worker.duties.pauser import Pauser
from pgqueue.worker.duties.progress_writer import ProgressWriter
from pgqueue.worker.duties.pruner import Pruner
from pgqueue.worker.duties.rescuer import Rescuer
from pgqueue.worker.duties.resolver import Resolver
from pgqueue.worker.duties.result_expirer import ResultExpirer
from pgqueue.worker.duties.signal_deliverer import SignalDeliverer, StepSweeper
from pgqueue.worker.duties.step_writer import StepWriter
from pgqueue.worker.duties.sweeper import Sweeper
from pgqueue.worker.duties.watchdog import Watchdog
from pgqueue.worker.duties.workflow_keeper import WorkflowKeeper
from pgqueue.worker.running.attempts import Attempts
from pgqueue.worker.running.children import Children
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
LINKS = ("claim", "full scan", "resolve", "steps", "chores", "prune", "inputs")
OVERDUE, QUIET = "no heartbeat gets through", "quiet"  # reasons to pause


class RunningWorker:
    """The links, duties and attempts of one running worker."""

    def __init__(
        self,
        core: WorkerCore,
        children: Children,
        stop: Callable[[PgqueueError], None],
        follow: Callable[[Request], None],
    ) -> None:
        app, queries = core.app, core.queries
        self._core = core
        self._children = children
        self._follow = follow
        self._links = links = {name: core.host.link(app, name) for name in LINKS}
        self._signals = signals = WorkerSignals()
        chores = links["chores"]
        self._announcer = Announcer(links["resolve"], queries, listens=app.listen_database is not None)
        self._resolver = Resolver(links["resolve"], app, signals)
        progress = ProgressWriter(chores, queries, app.listeners.emit)
        self._steps = StepWriter(links["steps"], queries)
        self._deliverer = SignalDeliverer(chores, core, signals)
        self._attempts = Attempts(core, signals, self._resolver, children, progress, self._steps)
        frontier = Frontier()
        full_scan = FullScan(links["full scan"], core, signals, frontier)
        self.producer = Producer(links["claim"], core, signals, frontier, full_scan)
        self._watchdog, self._canceller = Watchdog(chores, core.identity, signals), Canceller(chores, core, signals)
        self._rescuer = Rescuer(chores, core, signals)
        self._limit_keeper = LimitKeeper(chores, core, signals)
        self._pauser, self._workflow_keeper = Pauser(chores, core, signals), WorkflowKeeper(chores, core, signals)
        self._inputs = InputReader(links["inputs"], core, signals)
        made = self._make_duties(frontier, [self.producer, full_scan, progress])
        self.duties = [core.host.watch(duty) for duty in made]
        # These go on while a stopping worker waits for its jobs.
        self._activity = ActivityWriter(chores, core)
        self._last_duties: list[Duty] = [self._resolver, self._announcer, self._watchdog, self._canceller]
        self._last_duties += [self._activity, self._steps]
        self._last_duties = [core.host.watch(duty) for duty in self._last_duties]
        self._claims, self._resolves, self._stale_writes = Durations(), Durations(), 0
        self._written = asyncio.Event()  # set when no outcome is left to write
        self._connect(signals, stop)

    def _make_duties(self, frontier: Frontier, first: list[Duty]) -> list[Duty]:
        """Return the duties that stop when the worker is asked to stop: the first ones and those beside them."""
        core, signals, links, queries = self._core, self._signals, self._links, self._core.queries
        app = core.app
        chores = links["chores"]
        duties = [*first, self._rescuer, self._pauser, self._limit_keeper, self._deliverer, self._inputs]
        duties += [
            self._workflow_keeper,
            GoneFinder(chores, core, signals),
            PartitionMaker(chores, queries),
            Sweeper(chores, core, signals),
            ResultExpirer(chores, queries, app.tasks),
            OperationFinisher(chores, core),
            Pruner(links["prune"], chores, core),
            StepSweeper(chores, core),
            *Subscriber.of(chores, queries, app.name, subscriptions_of(app.tasks, app.queue, app.retention)),
        ]
        if core.slots.has_patterns:
            duties.append(QueueFinder(chores, core, signals, frontier))
        hearing = Hearing(core, signals)
        if app.listen_database is not None and not core.host.shares_listener(hearing):
            links["listen"] = Link(app.listen_database, "pgqueue worker listen")
            duties.append(Listener(links["listen"], queries, hearing))
        return duties

    async def declare_rules(self, stopping: asyncio.Event) -> None:
        """Write the rules of the app's code, before the first claim: jobs of a rule without a row are not limited.

        Tries again while the database is out of reach, until the worker stops. Raises NotMigrated and NotAllowed.
        """
        app, backoff = self._core.app, Backoff()
        rules = list(app.rules)
        while rules and not stopping.is_set():
            try:
                await self._links["chores"].run(app.queries.limits.declare(app.name, rules))
            except (*BROKEN, *TIMED_OUT, DatabaseUnreachable) as error:
                log.warning("the limits of the code are not written yet: %s", brief(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), backoff.next())
            else:
                return

    def end_without_jobs(self, end: Callable[[], None]) -> None:
        """Call `end` when nothing is due that this worker could run."""
        others = [duty for duty in self.duties if isinstance(duty, QueueFinder | SignalDeliverer | WorkflowKeeper)]
        self.duties.append(Burst(self._links["chores"], self._core, self._signals, self.producer, others, end))

    def _connect(self, signals: WorkerSignals, stop: Callable[[PgqueueError], None]) -> None:
        """Let each signal call the part that acts on it."""
        attempts, producer, announcer = self._attempts, self.producer, self._announcer
        signals.jobs_claimed, signals.jobs_ready = self._inputs.take, attempts.take
        signals.slot_freed = producer.slot_freed
        signals.cancellations_found = attempts.cancel
        signals.jobs_moved = announcer.jobs_moved
        signals.job_put_back = producer.expect
        signals.outcomes_written = attempts.begin_waiting
        signals.attempts_ended = self._activity.tally.add
        signals.job_moved_unrun = self._activity.tally.add_unrun
        signals.jobs_rescued = producer.wake
        signals.workflow_moved = self._workflow_keeper.wake
        signals.jobs_woken = producer.look_back
        signals.signal_sent = self._deliverer.wake
        signals.jobs_brought_back = producer.look_back
        signals.held_jobs = self._held_jobs
        signals.write_was_stale = self._count_stale_write
        signals.claim_took = self._claims.note
        signals.resolve_took = self._resolves.note
        signals.heartbeat_overdue = self._heartbeat_overdue
        signals.heartbeat_recovered = self._heartbeat_recovered
        signals.cannot_run_jobs = stop
        signals.listening = self._listening
        signals.job_committed = producer.job_committed
        signals.turn_over = producer.roster.left
        signals.turns_ended = producer.turns_ended
        signals.metered_found = self._limit_keeper.metered_found
        signals.queue_appeared = self._find_queues
        signals.cancellation_requested = self._canceller.wake
        signals.worker_died = self._rescuer.wake
        signals.pause_changed = self._pause_changed
        signals.job_awaited = announcer.job_awaited
        signals.request_made = self._core.identity.beat_soon

    def slot_came(self) -> None:
        """Begin a job that waits, or claim one: there is one more slot."""
        self._attempts.begin_waiting()
        self.producer.wake()

    async def close_links(self) -> None:
        """Close the connections of a worker that could not start."""
        for link in self._links.values():
            await link.close()

    def health(self) -> Health:
        """Whether the process works; whether heartbeats get through and it claims; and how its duties are."""
        claim, identity = self.producer, self._core.identity
        recent = claim.succeeded_at > monotonic() - 3 * self._core.settings.poll_seconds - DEADLINE
        return Health(identity.beats, recent and not claim.paused and not identity.overdue, self._ages())

    def reading(self) -> ProcessReading:
        """What this worker has done since its start, and how many of its slots are busy."""
        slots = self._core.slots
        return ProcessReading(
            self._core.identity.failures,
            self._activity.ended(),
            self._claims.copy(),
            self._resolves.copy(),
            slots.most,
            len(slots.running),
            self._stale_writes,
        )

    def _held_jobs(self) -> list[int]:
        return self._attempts.held_jobs() + self._inputs.waiting_jobs()

    def _count_stale_write(self) -> None:
        self._stale_writes += 1

    def _ages(self) -> dict[str, float | None]:
        """How many seconds ago each duty last worked; None for one that has not worked yet."""
        now = monotonic()
        duties = [*self.duties, *self._last_duties]
        return {d.name: round(now - d.succeeded_at, 3) if d.succeeded_at else None for d in duties}

    def _before_beat(self) -> Vitals:
        """In the heartbeat's thread: log if the event loop is blocked; return how the worker is."""
        self._watchdog.check_event_loop()
        return Vitals(self._ages(), self.producer.paused_for(QUIET))

    def be_quiet(self, quiet: bool) -> None:
        """Claim no more jobs, or again; the worker's row says so at once."""
        if quiet:
            self.producer.pause(QUIET)
        else:
            self.producer.resume(QUIET)
        self._core.identity.beat_soon()

    async def start(self) -> None:
        """Insert the worker's row, and begin to write outcomes."""
        core, loop = self._core, asyncio.get_running_loop()
        in_loop = loop.call_soon_threadsafe
        await asyncio.to_thread(
            core.identity.start,
            lambda lost: in_loop(self._declared_lost, lost),
            self._before_beat,
            lambda request: in_loop(self._follow, request),
        )
        self._writing = hide(asyncio.create_task(run_duties(self._last_duties, self._written)))
        self._writing.add_done_callback(self._stop_duties)
        info = core.identity.info
        log.info("worker %s started: queues %s; %d slots", info.id, ", ".join(info.queues), info.slots)
        log.info("tasks: %s", ", ".join(info.tasks) or "none")
        unserved = {spec.queue for spec in core.app.tasks if not core.served.has_queue(spec.queue)}
        if unserved:
            log.warning("tasks of this app use queues that this worker does not serve: %s", ", ".join(sorted(unserved)))
        core.app.listeners.emit(WorkerStarted(info.id))

    async def end(self, cutting: asyncio.Event) -> None:
        """Wait for the jobs that run, cut off those that do not end, write all outcomes, and close everything.

        If one step fails the others are taken all the same. It takes the shutdown timeout and some seconds, also
        without a database. `cutting` ends the wait for the jobs early.
        """
        identity, slots, emit = self._core.identity, self._core.slots, self._core.app.listeners.emit
        log.info("worker %s is stopping: %d jobs still run", identity.id, len(slots.running))
        self._attempts.close()
        async with AsyncExitStack() as stack:
            stack.callback(emit, WorkerStopped(identity.id))
            stack.callback(log.info, "worker %s stopped", identity.id)
            stack.callback(self._attempts.close_threads)
            stack.callback(self._steps.close)
            stack.push_async_callback(self._children.close)
            stack.push_async_callback(asyncio.to_thread, identity.stop)
            for link in self._links.values():
                stack.push_async_callback(link.close)
            stack.push_async_callback(self._finish_writing)
            with suppress(*DATABASE_ERRORS):
                stopping = self._core.queries.workers.set_stopping(identity.id)
                await self._links["chores"].run(stopping, deadline=2.0)
            await self._jobs_ended(cutting)
            if slots.running:
                await self._attempts.cut_off()

    async def _finish_writing(self) -> None:
        """Write the outcomes that are left, and release strays."""
        drained = hide(asyncio.create_task(self._resolver.drained()))
        await asyncio.wait([drained, self._writing], timeout=5.0, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        with suppress(*DATABASE_ERRORS):
            strays = self._core.queries.jobs.release_strays(self._core.identity.id, self._attempts.held_jobs())
            await self._links["claim"].run(strays, deadline=2.0)
            await self._activity.write()
        self._written.set()
        await self._writing

    async def _jobs_ended(self, cutting: asyncio.Event) -> None:
        """Wait until no job runs, the shutdown timeout has passed, or `cutting` is set."""
        waits = [hide(asyncio.create_task(wait)) for wait in (self._core.slots.emptied(), cutting.wait())]
        timeout = self._core.settings.shutdown_timeout
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _stop_duties(self, _: object) -> None:
        """Claim no jobs when outcomes are not written any more."""
        for duty in self.duties:
            duty.stop()

    def _declared_lost(self, worker: uuid.UUID) -> None:
        dropped = self._attempts.abandon(worker)
        log.error("worker %s was declared lost: it drops its %d jobs", worker, dropped)
        self.producer.start_over()

    def _heartbeat_overdue(self) -> None:
        self.producer.pause(OVERDUE)
        self._attempts.abandon()

    def _heartbeat_recovered(self) -> None:
        self.producer.resume(OVERDUE)

    def _find_queues(self) -> None:
        for duty in self.duties:
            if isinstance(duty, QueueFinder):
                duty.wake()

    def _pause_changed(self) -> None:
        """Move jobs of a task, and claim: a limit may have been resumed."""
        self._pauser.wake()
        self.producer.rules_changed()

    def _listening(self) -> None:
        """Look for what was committed or paused, and for callers that began to wait, before LISTEN."""
        self.producer.wake()
        self._pauser.wake()
        self._announcer.check()
