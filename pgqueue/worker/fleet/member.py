"""One schema of a fleet: its engine, which starts again after it could not go on."""

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from pgqueue.app import App
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.errors import NotMigrated, PgqueueError
from pgqueue.process.counters import ProcessReading
from pgqueue.process.duty import hide, run_duties
from pgqueue.process.heart import SharedIdentity
from pgqueue.process.logs import schema_here
from pgqueue.queries.workers import Request
from pgqueue.timing import Backoff
from pgqueue.worker.budget import Budget, SharedSlots
from pgqueue.worker.core import Served, WorkerCore, describe_worker
from pgqueue.worker.fleet.rest import Resting
from pgqueue.worker.fleet.server import Server
from pgqueue.worker.running.children import Children
from pgqueue.worker.running_worker import RunningWorker
from pgqueue.worker.settings import WorkerSettings

log = logging.getLogger("pgqueue.worker")
PATIENCE = 4  # times the backoff of a duty between two tries to start: up to half a minute


@dataclass(frozen=True, slots=True)
class FleetParts:
    """The parts of a fleet that its members use. `worker` is the id of this process in every schema."""

    settings: WorkerSettings
    served: Served
    budget: Budget
    worker: UUID
    deaths: Mapping[UUID, str]
    health_address: str | None


class Member:
    """Serves one schema until it is stopped. While the schema is out of reach, missing or not migrated it tries again,
    and says so once."""

    def __init__(self, app: App, server: Server, parts: FleetParts) -> None:
        self.schema = app.schema
        self._app = app
        self._server = server
        self._parts = parts
        self._stopping = asyncio.Event()
        self._cutting = asyncio.Event()
        self._running: RunningWorker | None = None
        self._identity: SharedIdentity | None = None
        self._slots: SharedSlots | None = None
        self._backoff = Backoff()
        self._ids = [parts.worker]  # a second engine has an id of its own: the row of the first one may be there still
        self._quiet = False
        self.started = asyncio.Event()

    def stop(self, *, cut: bool = False) -> None:
        """Claim no more jobs and finish those that run; with `cut` cancel and release those."""
        if cut:
            self._cutting.set()
        self._stopping.set()

    def be_quiet(self, quiet: bool) -> None:
        """Claim no more jobs, or again."""
        self._quiet = quiet
        if self._running is not None:
            self._running.be_quiet(quiet)

    @property
    def is_ready(self) -> bool:
        """Whether it reaches its schema and claims."""
        running, identity = self._running, self._identity
        return running is not None and identity is not None and not identity.overdue and not running.producer.paused

    @property
    def claimed_seconds_ago(self) -> float | None:
        """How long ago it last looked for jobs; None if it has not yet."""
        return None if self._running is None else self._running.health().ages.get("claim")

    @property
    def running_jobs(self) -> list[int]:
        """The ids of the jobs that run."""
        return [] if self._slots is None else [running.job.id for running in self._slots.running]

    def reading(self) -> ProcessReading | None:
        """What it has done since its engine started."""
        return None if self._running is None else self._running.reading()

    async def run(self) -> bool:
        """Serve until stopped; return whether all jobs have ended."""
        schema_here.set(self.schema)
        with self._app.current():
            while not self._stopping.is_set():
                try:
                    return await self._serve()
                except DATABASE_ERRORS as error:
                    if self._parts.settings.burst:
                        raise
                    if not self._backoff.failures:
                        log.warning("schema %s is not served, trying again: %s", self.schema, _why(error))
                except Exception as error:  # one schema ends no other, nor for ever
                    if self._parts.settings.burst:
                        raise
                    log.error("schema %s is not served, please report it: %s", self.schema, _why(error), exc_info=error)
                with suppress(TimeoutError):
                    delay = PATIENCE * self._backoff.next() * random.uniform(0.8, 1.0)  # noqa: S311
                    await asyncio.wait_for(self._stopping.wait(), delay)
        return True

    async def _serve(self) -> bool:
        """Run an engine to its end; raise why it could not go on."""
        app, parts = self._app, self._parts
        settings, host = parts.settings, Resting(self._server, app)
        slots = SharedSlots(parts.budget, parts.served.queues, settings.limits, settings.shares)
        info = describe_worker(app, settings, parts.served, slots, parts.health_address)
        info = replace(info, id=self._ids.pop() if self._ids else uuid4())
        identity = SharedIdentity(self._server.hearts, app.database, app.queries, info, parts.deaths)
        core = WorkerCore(app, settings, parts.served, slots, identity, host)
        running = RunningWorker(core, Children(app.tasks), self._fail, self._follow)
        host.attend(slots, identity)
        slots.slot_came = running.slot_came
        for hook in app.own_work_starters:
            hook()
        try:
            await running.start()
        except BaseException:
            host.leave()
            await running.close_links()
            raise
        parts.budget.join(slots)
        self._running, self._identity, self._slots = running, identity, slots
        if self._backoff.failures:
            log.info("schema %s is served now", self.schema)
            self._backoff.reset()
        if self._quiet:
            running.be_quiet(True)
        self.started.set()
        try:
            await self._work(running, host)
        finally:
            self._running = None
            host.leave()
            try:
                await running.end(self._cutting)
            finally:
                parts.budget.leave(slots)
        if host.missing.done():
            raise host.missing.result()
        return not slots.running

    async def _work(self, running: RunningWorker, host: Resting) -> None:
        """Run the duties until the member is stopped, or its schema is not there any more."""
        ending = asyncio.Event()
        ends = [hide(asyncio.create_task(self._stopping.wait())), hide(asyncio.create_task(_done(host.missing)))]
        for end in ends:
            end.add_done_callback(lambda _: ending.set())
        if self._parts.settings.burst:
            running.end_without_jobs(self.stop)
        try:
            await running.declare_rules(ending)
            await run_duties(running.duties, ending, grace_seconds=2.0)
        finally:
            if host.missing.done():
                self._cutting.set()  # nothing can be written any more
            for end in ends:
                end.cancel()

    def _follow(self, request: Request) -> None:
        """Do what an operator asks of this worker, in this schema alone."""
        log.info("%s asks this worker to %s in schema %s", request.by, request.what, self.schema)
        if request.what == "stop":
            self.stop()
        else:
            self.be_quiet(request.what == "quiet")

    def _fail(self, error: PgqueueError) -> None:
        log.error("schema %s is served no longer: %s", self.schema, error)
        self.stop()


async def _done(future: "asyncio.Future[NotMigrated]") -> None:
    await asyncio.wait([future])


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, PgqueueError) else brief(error)
