"""The process that serves several schemas: it makes a member of each, and follows a pattern of their names."""

import asyncio
import faulthandler
import inspect
import logging
import sys
import uuid
from contextlib import suppress

from pgqueue.app import App, Hook
from pgqueue.client.chosen_schemas import ChosenSchemas
from pgqueue.config import take_deaths, take_worker_id
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.errors import InvalidOption
from pgqueue.jobs.served_queues import check_served_queues
from pgqueue.jobs.tally import Tally
from pgqueue.process.counters import Durations, ProcessReading
from pgqueue.process.duty import hide
from pgqueue.process.health import Health
from pgqueue.worker.budget import Budget
from pgqueue.worker.core import Served
from pgqueue.worker.fleet.member import FleetParts, Member
from pgqueue.worker.fleet.server import Server
from pgqueue.worker.settings import WorkerSettings
from pgqueue.worker.slots import Slots

log = logging.getLogger("pgqueue.worker")
REREAD_SECONDS = 10.0  # between two looks which schemas match a pattern


class Fleet:
    """One process for many schemas. The constructor checks the settings; `run` does the work.

    Its slots are shared fairly (`Budget`), its connections by all schemas of one database (`Server`). A schema that is
    out of reach, missing or not migrated holds up no other. It has the face of a `Worker`.
    """

    def __init__(self, app: App, chosen: ChosenSchemas, settings: WorkerSettings | None = None) -> None:
        settings = settings or WorkerSettings()
        queues = check_served_queues(settings.queues, settings.shares, settings.limits)
        Slots(settings.concurrency, queues, settings.limits, settings.shares)  # raises for what cannot be used
        if names := sorted(spec.name for spec in app.tasks if spec.isolation == "process"):
            raise InvalidOption(
                f"tasks with isolation='process' ({', '.join(names)}) cannot run in a process of several schemas: "
                "start one `pgqueue work --schema …` for each schema, or leave isolation out"
            )
        self._app = app
        self._chosen = chosen
        self._settings = settings
        self._budget = Budget(settings.concurrency)
        self._served = Served(queues, tuple(app.tasks.names()))
        self._members: dict[str, tuple[Member, asyncio.Task[bool]]] = {}
        self._leaving: set[str] = set()  # members that end because their schema is gone; it may come back
        self._servers: dict[object, Server] = {}
        self._stopping = asyncio.Event()
        self._all_ended = True
        self._reread_fails = self._quiet = False
        self._parts: FleetParts | None = None
        self.started = asyncio.Event()
        self.health_address: str | None = None
        self.asked_to_stop = False
        self.out_of_jobs = False

    def prepare(self) -> None:
        """Do what is best done before there is an event loop: nothing, for no task runs in a child process."""

    def stop(self) -> None:
        """First call: claim no more jobs and finish those that run. Second call: cancel those and release them."""
        cut = self._stopping.is_set()
        self._stopping.set()
        for member, _ in self._members.values():
            member.stop(cut=cut)

    @property
    def stops(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    @property
    def schemas(self) -> tuple[str, ...]:
        """The schemas that it serves, or tries to."""
        return tuple(self._members)

    def quiet(self) -> None:
        """Claim no more jobs in any schema, but go on running."""
        self._quiet = True
        for member, _ in self._members.values():
            member.be_quiet(True)
        log.info("quiet: no more jobs are taken")

    def dump(self) -> None:
        """Write what every thread, every task and every job is doing to stderr and the log."""
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        for task in asyncio.all_tasks():
            task.print_stack(limit=5)
        for member, _ in self._members.values():
            log.info("running jobs of schema %s: %s", member.schema, ", ".join(map(str, member.running_jobs)) or "none")

    def health(self) -> Health:
        """How the process is: live while its heartbeats run, ready while it claims in some schema. The ages are how
        long ago it last looked for jobs in each."""
        live = all(server.hearts.beats for server in self._servers.values())
        members = [member for member, _ in self._members.values()]
        ready = not self._stopping.is_set() and any(member.is_ready for member in members)
        return Health(live, ready, {member.schema: member.claimed_seconds_ago for member in members})

    def reading(self) -> ProcessReading | None:
        """What this process has done in all schemas since their engines started; None before."""
        readings = [reading for member, _ in self._members.values() if (reading := member.reading()) is not None]
        if not readings:
            return None
        ended = Tally()
        for one in readings:
            ended.merge(one.ended)
        return ProcessReading(
            sum(one.heartbeat_failures for one in readings),
            ended.counts(),
            _sum_of([one.claims for one in readings]),
            _sum_of([one.resolves for one in readings]),
            self._budget.total,
            sum(one.busy for one in readings),
            sum(one.stale_writes for one in readings),
        )

    async def run(self) -> bool:
        """Serve until stopped. Returns whether all jobs have ended; False if some were left behind in their threads."""
        for hook in self._app.worker_starters:
            await _call(hook)
        worker = take_worker_id() or uuid.uuid4()
        self._parts = FleetParts(self._settings, self._served, self._budget, worker, take_deaths(), self.health_address)
        try:
            while not self._stopping.is_set():
                await self._follow_names()
                self.started.set()
                if await self._wait_for_change():
                    break
        finally:
            self._stopping.set()
            await self._end()
        return self._all_ended

    async def _follow_names(self) -> None:
        """Begin to serve schemas that are new, and end with those that no name or pattern chooses any more."""
        names = await self._names()
        if names is None:
            return
        for name, (_, running) in [*self._members.items()]:
            if name in self._leaving and running.done():
                self._leaving.discard(name)
                self._note_end(self._members.pop(name)[1])
        for gone in self._members.keys() - set(names) - self._leaving:
            log.info("schema %s is gone, or matches no more: it is served no longer", gone)
            self._leaving.add(gone)
            self._members[gone][0].stop()
        for name in names:
            if name not in self._members and self._parts is not None:
                app = self._app.on(name)
                member = Member(app, self._server_of(app), self._parts)
                member.be_quiet(self._quiet)
                self._members[name] = member, hide(asyncio.create_task(member.run(), name=f"schema {name}"))

    async def _names(self) -> list[str] | None:
        """Return the schemas to serve; None where they cannot be read now: then those that are served stay."""
        if not self._chosen.patterns:
            return self._chosen.pick(())
        link = self._server_of(self._app).link("schemas", asyncio.Semaphore(1))
        try:
            there = await link.run(self._app.queries.schema.installed())
        except DATABASE_ERRORS as error:
            if not self._reread_fails:
                log.warning("which schemas there are cannot be read, trying again: %s", brief(error))
            self._reread_fails = True
            return None
        self._reread_fails = False
        return self._chosen.pick([*self._app.shards, *there])

    def _server_of(self, app: App) -> Server:
        key: object = app.database if app.database.fresh is None else app.origin
        if key not in self._servers:
            self._servers[key] = server = Server(app, self._settings.lease_seconds)
            server.start()
        return self._servers[key]

    async def _wait_for_change(self) -> bool:
        """Wait until names are to be read again; return whether there is nothing left to do."""
        tasks = [running for _, running in self._members.values()]
        stopped = hide(asyncio.create_task(self._stopping.wait()))
        timeout = REREAD_SECONDS if self._chosen.patterns else None
        try:
            if not tasks and self._settings.burst:
                self.out_of_jobs = True
                return True
            if not tasks:
                await asyncio.wait([stopped], timeout=timeout)
            elif self._settings.burst or not self._chosen.patterns:
                every = hide(asyncio.create_task(_all_of(tasks)))
                await asyncio.wait([stopped, every], return_when=asyncio.FIRST_COMPLETED)
                every.cancel()
                self.out_of_jobs = self._settings.burst and all(task.done() for task in tasks)
                self.asked_to_stop = not self._stopping.is_set() and not self.out_of_jobs
                return True
            else:
                await asyncio.wait([stopped], timeout=timeout)
        finally:
            stopped.cancel()
        return self._stopping.is_set()

    async def _end(self) -> None:
        for member, _ in self._members.values():
            member.stop()
        if running := [task for _, task in self._members.values()]:
            await asyncio.wait(running)
        for task in running:
            self._note_end(task)
        for server in self._servers.values():
            with suppress(*DATABASE_ERRORS):
                await server.close()
        for hook in self._app.worker_stoppers:
            try:
                await _call(hook)
            except Exception as error:
                log.error("a hook on the worker's stop raised %s", type(error).__name__, exc_info=error)

    def _note_end(self, task: "asyncio.Task[bool]") -> None:
        error = task.exception()
        if isinstance(error, DATABASE_ERRORS):  # of a burst, which tries nothing again
            log.error("a schema was not served: %s", brief(error))
        elif error is not None:
            log.error("a schema is served no longer, please report it: %s", type(error).__name__, exc_info=error)
        self._all_ended = self._all_ended and error is None and task.result()


async def _all_of(tasks: "list[asyncio.Task[bool]]") -> None:
    await asyncio.wait(tasks)


def _sum_of(durations: "list[Durations | None]") -> Durations:
    found = [one for one in durations if one is not None]
    total = Durations(sum(one.seconds for one in found))
    total.counts = [sum(column) for column in zip(*(one.counts for one in found), strict=True)] or total.counts
    return total


async def _call(hook: Hook) -> None:
    answer = hook()
    if inspect.isawaitable(answer):
        await answer
