"""The duty that declares schedules: those of the code become rows, and rows that left the code are disabled."""

import hashlib
import logging
import uuid
from dataclasses import replace
from datetime import datetime

from pgqueue import db
from pgqueue.app import App
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.schedules.release import SILENCE
from pgqueue.queries.schedules.stored import StoredSchedule, row_json
from pgqueue.schedules.schedule import Schedule
from pgqueue.schedules.ticks import MOST_SETTLED, disabled_ticks, settle_ticks

log = logging.getLogger("pgqueue.scheduler")


class Declarer(Duty):
    """Writes which release of the app runs here, and declares its schedules unless a newer release runs.

    While an old release and a new one run side by side, as in every deploy, the new one's schedules count, and those
    that only the old one declares stay until its last scheduler has ended. A process that declares none changes none.
    """

    name = "declare"

    def __init__(self, app: App, link: Link) -> None:
        super().__init__(link)
        self._app = app
        self.id = uuid.uuid4()
        self._since: datetime | None = None
        self._resealed = False
        self._noted = False
        texts = sorted(row_json(_public(schedule, app)) for schedule in app.schedules.values())
        self._release = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    async def step(self) -> float:
        """Write that this release runs; declare its schedules."""
        app, queries = self._app, self._app.queries
        if not app.schedules:
            await self._note_nothing()
            return SILENCE / 4
        reseal = not self._resealed
        names = [schedule.name for schedule in app.schedules.values()]
        self._since = await self.link.run(
            queries.schedules.register_release(self.id, app.name, self._release, names, self._since)
        )
        if not app.name:
            # Several apps may have no name, so none disables schedules that it does not declare.
            self._resealed = await declare(app, self.link, reseal=reseal) or self._resealed
        elif await self.link.run(queries.schedules.is_newest_release(self.id)):
            self._resealed = await declare(app, self.link, reseal=reseal) or self._resealed
            for name in await self.link.run(queries.schedules.disable_dropped(app.name)):
                log.warning("schedule %s is disabled: the code declares it no longer", name)
        return SILENCE / 4

    async def _note_nothing(self) -> None:
        """Log once what a process found that declares nothing. It is no release, and disables nothing.

        Most often the module of the app was loaded without the modules that declare its schedules.
        """
        if self._noted:
            return
        found = await self.link.run(self._app.queries.schedules.count_declared(self._app.name))
        self._noted = True
        if found:
            log.warning(
                "no schedule is declared here, and %d rows of %s are as they were: import the modules that declare "
                "them, or delete those that are over with `pgqueue schedules delete`",
                found,
                self._app.name or "an app without a name",
            )

    async def leave(self) -> None:
        """Write that this scheduler has ended, so that schedules that only it declared can be disabled."""
        await self.link.run(self._app.queries.schedules.unregister_release(self.id), deadline=2.0)


async def declare(app: App, link: Link, *, reseal: bool = True) -> bool:
    """Write the schedules that the code declares to the table. A new one begins with its first tick after now.

    "Now" is the database's clock. Returns whether all are written: a schedule whose row another transaction has locked
    is left for the next step.
    """
    schedules, queries = list(app.schedules.values()), app.queries
    news = await link.run(queries.schedules.find_changed(schedules, app.name, reseal=reseal)) if schedules else set()
    if not news:
        return True
    async with link.connection() as conn, conn.transaction():
        free = await db.run_async(conn, queries.schedules.try_lock(news))
        held = await db.run_async(conn, queries.schedules.existing(news)) - {one.name for one in free}
        for due in free:
            if isinstance(due, StoredSchedule):
                await _settle(app, conn, due, MOST_SETTLED // len(free) + 1)
        now = await db.run_async(conn, queries.schedules.clock())
        new = [(schedule, schedule.after(now)) for schedule in schedules if schedule.name in news - held]
        await db.run_async(conn, queries.schedules.declare(new, app.name))
    if held:
        log.warning("%d schedules are locked by other transactions, and declared later: %s", len(held), min(held))
    return not held


async def _settle(app: App, conn: db.AsyncConnection, due: StoredSchedule, most: int) -> None:
    """Record what became of the old plan's ticks before the new plan replaces it: those up to now did not fire."""
    if due.state.disabled:
        ticks = disabled_ticks(due.state, datetime.fromisoformat(due.row["disabled_at"]), most)
        await db.run_async(conn, app.queries.schedules.record_ticks(ticks))
    elif due.row["edited_at"] is None and not _same_ticks(due.schedule, app.schedules[due.name]):
        ticks = settle_ticks(due.state, due.state.now, "passed before the code changed the plan", most)
        await db.run_async(conn, app.queries.schedules.record_ticks(ticks))


def _same_ticks(old: Schedule, new: Schedule) -> bool:
    return (old.plan, old.start, old.end) == (new.plan, new.start, new.end)


def _public(schedule: Schedule, app: App) -> Schedule:
    """Return a schedule without what the hash of its release must not contain: secrets could be guessed from it."""
    return schedule if app.codec is None else replace(schedule, job=replace(schedule.job, args="{}"))
