"""The worker process: puts its duties together, and takes them apart in order."""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pgqueue.app import DEFAULT_RETRY, App
from pgqueue.config import check_queue
from pgqueue.job import ClaimedJob
from pgqueue.lifecycle import Resolution, decide
from pgqueue.outcome import ErrorInfo, Outcome, Raised, Unstarted
from pgqueue.service import DATABASE_ERRORS, Identity, Link, Partitions, Service, describe, run_duties
from pgqueue.worker.executor import Executor
from pgqueue.worker.listener import Listener
from pgqueue.worker.producer import Diet, Producer
from pgqueue.worker.rescue import Rescuer
from pgqueue.worker.resolver import Resolver
from pgqueue.worker.slots import Running, Slots

log = logging.getLogger("pgqueue.worker")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker runs. Durations are seconds.

    `queues` are served in order; `limits` says how many jobs of a queue this worker runs at most at a time.
    A worker that has not beaten for `lease_seconds` is declared lost and its jobs run again elsewhere.
    """

    queues: Sequence[str] = ("default",)
    concurrency: int = 8
    limits: Mapping[str, int] = field(default_factory=dict)
    lease_seconds: float = 30.0
    poll_seconds: float = 1.0
    shutdown_timeout: float = 30.0


class Worker:
    """One worker process. Making one checks its settings; `run` does the work."""

    def __init__(self, app: App, settings: WorkerSettings | None = None) -> None:
        settings = settings or WorkerSettings()
        queues = tuple(dict.fromkeys(check_queue(queue) for queue in settings.queues))
        self._app = app
        self._settings = settings
        self._slots = Slots(settings.concurrency, queues, settings.limits)
        self._diet = Diet(queues, tuple(app.tasks.names()))
        self._executor = Executor(app.tasks, settings.concurrency)
        self._stopping = asyncio.Event()
        self._cancelling = asyncio.Event()

    def stop(self) -> None:
        """First call: take no more jobs and finish those that run. Second call: cancel them and give them back."""
        if self._stopping.is_set():
            self._cancelling.set()
        self._stopping.set()

    async def run(self) -> bool:
        """Work until stopped. Returns whether all that ran has ended; False if threads had to be left behind.

        Raises DatabaseUnreachable or NotMigrated if it cannot start.
        """
        dsn, queries = self._app.dsn, self._app.queries
        loop = asyncio.get_running_loop()
        info = describe("worker", self._settings.lease_seconds, self._diet.queues, self._diet.tasks, self._slots.total)
        identity = Identity(dsn, queries, info, lambda lost: loop.call_soon_threadsafe(self._lost, lost))
        links = {name: Link(dsn, f"pgqueue worker {name}") for name in ("claim", "resolve", "listen", "chores")}
        self._resolver = Resolver(links["resolve"], queries, self._put_back)
        self._producer = Producer(
            links["claim"],
            queries,
            identity,
            self._slots,
            self._diet,
            self._settings.poll_seconds,
            self._start,
            self._held,
        )
        await asyncio.to_thread(identity.start)
        log.info("worker %s started: queues %s; %d slots", identity.id, ", ".join(self._diet.queues), self._slots.total)
        written = asyncio.Event()
        writing = asyncio.create_task(run_duties([self._resolver], written))
        try:
            duties: list[Service] = [
                self._producer,
                Listener(links["listen"], queries, self._diet.queues, self._producer.wake),
                Rescuer(links["chores"], queries, identity, self._producer.wake),
                Partitions(links["chores"], queries),
            ]
            await run_duties(duties, self._stopping, grace_seconds=2.0)
        finally:
            self._stopping.set()
            await self._drain(links["chores"], identity)
            written.set()
            await writing
            for link in links.values():
                await link.close()
            await asyncio.to_thread(identity.stop)
            self._executor.close()
            log.info("worker %s stopped", identity.id)
        return not self._slots.running

    def _start(self, job: ClaimedJob) -> None:
        running = self._slots.take(job)
        if self._stopping.is_set():
            self._finish(running, Unstarted())
        else:
            running.task = asyncio.create_task(self._attempt(running), name=f"pgqueue job {job.id}")

    async def _attempt(self, running: Running) -> None:
        outcome: Outcome = Unstarted()
        try:
            outcome = await self._executor.run(running.job)
        except asyncio.CancelledError:
            log.warning("job %d was cancelled by its worker", running.job.id)
        except BaseException as error:
            log.exception("job %d: running it failed in an unforeseen way", running.job.id)
            outcome = Raised(ErrorInfo.of(error))
        self._finish(running, outcome)

    def _finish(self, running: Running, outcome: Outcome) -> None:
        self._slots.give_back(running)
        if not running.abandoned:
            self._resolve(running.job, outcome)
        self._producer.slot_freed()

    def _resolve(self, job: ClaimedJob, outcome: Outcome) -> None:
        spec = self._app.tasks.get(job.task)
        try:
            resolution = decide(job, outcome, spec.retry if spec else DEFAULT_RETRY)
        except Exception as error:  # noqa: BLE001 - a user's own policy; the outcome must be written all the same
            log.error("job %d: the retry policy of %s raised %s", job.id, job.task, type(error).__name__)
            resolution = decide(job, outcome, DEFAULT_RETRY)
        _tell(job, resolution)
        self._resolver.add(job, resolution)

    def _held(self) -> list[int]:
        """The jobs this worker has: in a slot, or with an outcome to be written."""
        return [running.job.id for running in self._slots.running] + self._resolver.held()

    def _put_back(self, delay: float) -> None:
        self._producer.expect(delay)

    def _lost(self, identity: uuid.UUID) -> None:
        """Drop what runs under an identity that others have declared lost: it runs again elsewhere."""
        lost = [running for running in self._slots.running if running.job.worker_id == identity]
        log.error("worker %s was declared lost: it drops its %d jobs", identity, len(lost))
        for running in lost:
            running.abandoned = True
        self._cancel(lost)
        self._producer.forget()

    def _cancel(self, jobs: list[Running]) -> None:
        """Cancel async tasks. A thread cannot be cancelled: its slot stays taken until it ends."""
        for running in jobs:
            spec = self._app.tasks.get(running.job.task)
            if running.task is not None and spec is not None and spec.is_async:
                running.task.cancel()

    async def _drain(self, link: Link, identity: Identity) -> None:
        """Wait for the jobs that run, then cut off those that do not end; write all outcomes."""
        log.info("worker %s is stopping: %d jobs run", identity.id, len(self._slots.running))
        with suppress(TimeoutError, *DATABASE_ERRORS):
            await asyncio.wait_for(link.run(self._app.queries.set_stopping(identity.id)), 2.0)
        ended = asyncio.create_task(self._slots.emptied())
        second = asyncio.create_task(self._cancelling.wait())
        await asyncio.wait(
            [ended, second], timeout=self._settings.shutdown_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        if self._slots.running:
            await self._cut_off()
        for waiting in (ended, second):
            waiting.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._resolver.drained(), 5.0)

    async def _cut_off(self) -> None:
        log.warning("cutting off %d jobs that did not end in time", len(self._slots.running))
        self._cancel(self._slots.running)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._slots.emptied(), 1.0)
        for running in self._slots.running:
            running.abandoned = True
            self._resolve(running.job, Unstarted())


def _tell(job: ClaimedJob, resolution: Resolution) -> None:
    """Log how an attempt ended. No arguments, no messages of errors: they stand in the database."""
    end = f"job {job.id} {job.task}, attempt {job.attempt} of {job.max_attempts}"
    kind = resolution.error.type if resolution.error else resolution.reason
    match resolution.verb:
        case "succeed":
            log.debug("%s: succeeded", end)
        case "retry":
            log.warning("%s: %s; again in %.1f s", end, kind, resolution.delay)
        case "bury":
            log.error("%s: %s; it is a dead letter now (%s)", end, kind, resolution.reason)
        case "park":
            log.warning("%s: no task of that name is registered here; it waits for a worker that knows it", end)
        case _:
            log.info("%s: %s (%s)", end, resolution.verb, resolution.reason)
