"""The scheduler: turns ticks into jobs. Any number may run; a row lock and a unique key let each tick fire once."""

import asyncio
import logging
import uuid
from dataclasses import dataclass
from datetime import datetime

from pgqueue import db
from pgqueue.app import App
from pgqueue.config import check_seconds
from pgqueue.events import ScheduleFired
from pgqueue.identity import Identity, describe
from pgqueue.job import NewJob
from pgqueue.link import Link
from pgqueue.plan import due_ticks
from pgqueue.queries.schedule import Due, Schedule, Tick, Unusable, tick_headers
from pgqueue.service import Partitions, Service, run_duties

log = logging.getLogger("pgqueue.scheduler")
MISSED_SHOWN = 1000
BATCH = 100


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """How a scheduler runs. `poll_seconds`: how soon it sees a schedule that another process has added."""

    lease_seconds: float = 30.0
    poll_seconds: float = 1.0

    def __post_init__(self) -> None:
        check_seconds("lease_seconds", self.lease_seconds, 0.1)
        check_seconds("poll_seconds", self.poll_seconds, 0.01)


class Ticker(Service):
    """Fires schedules whose tick has come, and sleeps until the next one."""

    name = "schedules"

    def __init__(self, app: App, link: Link, settings: SchedulerSettings) -> None:
        super().__init__(link)
        self._app = app
        self._settings = settings
        self._unusable: set[str] = set()

    async def tick(self) -> float:
        """Fire what is due; return the seconds until the next tick, at most the poll interval."""
        if await self.fire() == BATCH:
            return 0.0
        next_tick = await self.link.run(self._app.queries.next_tick(self._unusable))
        return self._settings.poll_seconds if next_tick is None else min(max(next_tick, 0), self._settings.poll_seconds)

    async def fire(self) -> int:
        """Fire up to a batch of due schedules in one transaction: jobs, ticks and next ticks, or none of it."""
        queries = self._app.queries
        async with self.link.connection() as conn, conn.transaction():
            found = await db.run_async(conn, queries.lock_due(BATCH, self._unusable))
            if not found:
                return 0
            self._pass_by([one for one in found if isinstance(one, Unusable)])
            firings = [Firing.of(due) for due in found if isinstance(due, Due)]
            known = await db.run_async(conn, queries.known_ticks([(f.schedule.name, f.tick) for f in firings]))
            new = [f for f in firings if (f.schedule.name, f.tick) not in known]
            rows = await db.run_async(conn, queries.enqueue([f.job for f in new], [f.headers for f in new]))
            ticks = [tick for f in firings for tick in f.missed_ticks()]
            ticks += [Tick(f.schedule.name, f.tick, "fired", None, row.id) for f, row in zip(new, rows, strict=True)]
            await db.run_async(conn, queries.record_ticks(ticks, {f.schedule.name: f.following for f in firings}))
        for firing, row in zip(new, rows, strict=True):
            name, missed = firing.schedule.name, len(firing.missed)
            log.info("schedule %s fired %s for %s (%d missed)", name, firing.job.task, firing.tick, missed)
            self._app.listeners.emit(ScheduleFired(name, firing.tick, row.id, missed))
        return len(found)

    def _pass_by(self, unusable: list[Unusable]) -> None:
        """Leave schedules alone whose plan cannot be read here: other schedulers may know more timezones, or more of
        cron. They are tried again after a restart."""
        for one in unusable:
            log.error("schedule %s cannot be fired here: %s", one.name, one.reason)
            self._unusable.add(one.name)


@dataclass(frozen=True, slots=True)
class Firing:
    """A due schedule with the tick that fires, those before it that nobody was there for, and the one that follows."""

    schedule: Schedule
    missed: list[datetime]
    tick: datetime
    following: datetime

    @classmethod
    def of(cls, due: Due) -> "Firing":
        """Work out the ticks that have passed since the one that is due. The newest fires."""
        passed, following = due_ticks(due.schedule.plan, due.tick, due.now, MISSED_SHOWN)
        return cls(due.schedule, passed[:-1], passed[-1], following)

    @property
    def job(self) -> NewJob:
        """The job that the tick becomes."""
        return self.schedule.job

    @property
    def headers(self) -> str:
        """What tells the job which tick it is for."""
        return tick_headers(self.schedule.name, self.tick)

    def missed_ticks(self) -> list[Tick]:
        """The rows of the ticks that did not fire."""
        return [Tick(self.schedule.name, tick, "missed", "no scheduler ran") for tick in self.missed]


async def declare(app: App, link: Link) -> None:
    """Make the schedules that the code declares rows, each from its first tick after now by the database's clock."""
    now = await link.run(app.queries.clock())
    if app.schedules:
        await link.run(app.queries.declare([(s, s.plan.after(now)) for s in app.schedules.values()]))


class Scheduler:
    """One scheduler process."""

    def __init__(self, app: App, settings: SchedulerSettings | None = None) -> None:
        self._app = app
        self._settings = settings or SchedulerSettings()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End after the transaction in flight."""
        self._stopping.set()

    async def run(self) -> bool:
        """Fire schedules until stopped; returns True. Raises DatabaseUnreachable or NotMigrated if it cannot start."""
        app, database = self._app, self._app.database
        info = describe("scheduler", self._settings.lease_seconds, [], [], 0)
        identity = Identity(database, app.queries, info, _say_lost)
        await asyncio.to_thread(identity.start)
        link, chores = Link(database, "pgqueue scheduler"), Link(database, "pgqueue scheduler chores")
        duties = [Ticker(app, link, self._settings), Partitions(chores, app.queries)]
        try:
            await declare(app, link)
            log.info("scheduler %s started: %d schedules declared here", identity.id, len(app.schedules))
            await run_duties(duties, self._stopping)
        finally:
            await link.close()
            await chores.close()
            await asyncio.to_thread(identity.stop)
            log.info("scheduler %s stopped", identity.id)
        return True


def _say_lost(lost: uuid.UUID) -> None:
    log.warning("scheduler %s was declared lost and goes on under a new identity", lost)
