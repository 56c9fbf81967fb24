"""The duty that fires schedules: a tick whose time has come becomes a job."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

import psycopg

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.schedules import enqueue_ticks
from pgqueue.db.failures import blames_data, brief
from pgqueue.db.link import Link
from pgqueue.errors import InvalidPlan, PgqueueError
from pgqueue.events import Event, ScheduleFired, ScheduleMissed, ScheduleSkipped
from pgqueue.process.duty import Duty
from pgqueue.queries.jobs.enqueue import InsertedJob
from pgqueue.queries.schedules.stored import FoundSchedule, StoredSchedule
from pgqueue.scheduler.settings import SchedulerSettings
from pgqueue.schedules.schedule import changed
from pgqueue.schedules.ticks import MOST_SETTLED, TickDecision, TickRecord, decide_ticks, settle_ticks
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.scheduler")
BATCH = 500
CHUNK = 20_000  # ticks that one transaction records
# Errors of an edit that cannot be applied, which is dropped, or of a row that cannot be read, which is left alone.
UNUSABLE = (PgqueueError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
         psycopg.errors.IntegrityError, psycopg.errors.DataError)  # fmt: skip
LOCKED_SECONDS = 0.01  # before a locked schedule is tried again; doubled each time
UNUSABLE_SECONDS = 60.0  # before a schedule that cannot be read or fired here is tried again
DecidedTick: TypeAlias = tuple[TickDecision, TickRecord]  # a tick, and the decision about its schedule


class Ticker(Duty):
    """Fires the schedules that have a tick due, and sleeps until the next one."""

    name = "schedules"

    def __init__(self, app: App, link: Link, settings: SchedulerSettings) -> None:
        super().__init__(link)
        self._app = app
        self._queries = app.queries
        self._settings = settings
        self._unusable: dict[str, float] = {}  # until when each is left alone, by the monotonic clock
        self._locked: list[str] = []  # by this transaction
        self._batch = BATCH
        self._locked_by_others = 0  # how many steps in a row found schedules due, and all of them locked

    def leave_alone(self, names: Iterable[str], seconds: float = UNUSABLE_SECONDS) -> None:
        """Fire none of these schedules here for some seconds."""
        self._unusable |= dict.fromkeys(names, monotonic() + seconds)

    async def step(self) -> float:
        """Fire what is due; return the seconds until the next tick, at most the poll interval."""
        now, asked, found = monotonic(), self._batch, 1
        self._unusable = {name: until for name, until in self._unusable.items() if until > now}
        self._batch = max(1, asked // 4)  # for the next step, if this one fails: it may have been too much
        try:
            found = await self.fire(asked)
        except psycopg.Error as error:
            if not blames_data(error):
                raise
            await self._one_by_one()
        self._batch = min(2 * asked, BATCH)
        return 0.0 if found == asked else await self._rest(found)

    async def _rest(self, found: int) -> float:
        """Return the seconds until the next tick.

        If a schedule is due but locked, by another scheduler or by an edit that is not committed, the pauses grow.
        """
        poll = self._settings.poll_seconds
        next_tick = await self.link.run(self._queries.schedules.next_due(self._unusable))
        if found or next_tick is None or next_tick > 0:
            self._locked_by_others = 0
            return poll if next_tick is None else min(max(next_tick, 0), poll)
        self._locked_by_others += 1
        ahead = await self.link.run(self._queries.schedules.next_due(self._unusable, future_only=True))
        pause = min(LOCKED_SECONDS * 2.0 ** min(self._locked_by_others, 10), poll)
        return pause if ahead is None else min(pause, max(ahead, 0))

    async def fire(self, at_most: int = BATCH) -> int:
        """Fire due schedules in one transaction, which writes jobs, ticks and next ticks, or none of them.

        Returns how many were due.
        """
        async with self.link.connection() as conn, conn.transaction():
            found = await db.run_async(conn, self._queries.schedules.lock_due(at_most, self._unusable))
            self._locked = [one.name for one in found]
            if not found:
                return 0
            due = await self._apply_edits(conn, found)
            decisions = await self._decide(conn, due)
            fired = await self._fire(conn, decisions)
        for event in _events(decisions, fired):
            self._app.listeners.emit(event)
        return len(found)

    async def _one_by_one(self) -> None:
        """Fire each schedule in a transaction of its own, after one has failed that of a batch.

        One that fails alone is left alone for a while, and the error is written to its row.
        """
        while True:
            try:
                if not await self.fire(1):
                    return
            except psycopg.Error as error:
                if not blames_data(error) or not self._locked:
                    raise
                (name,) = self._locked
                self.leave_alone([name])
                log.error("schedule %s cannot be fired: %s", name, brief(error))
                await self.link.run(self._queries.schedules.record_errors([(name, brief(error), False)]))

    async def _apply_edits(self, conn: db.AsyncConnection, found: Sequence[FoundSchedule]) -> list[StoredSchedule]:
        """Apply the edits that were requested in SQL; return the schedules to fire.

        A row that cannot be read here is left alone: another scheduler may know more timezones, or more of cron.
        """
        due, errors = [], []
        for one in found:
            asked = one.state.edit_asked if isinstance(one, StoredSchedule) else one.row.get("edit_asked")
            try:
                if asked is not None:
                    async with conn.transaction():
                        await self._apply_edit(conn, one, asked, MOST_SETTLED // len(found) + 1)
                elif isinstance(one, StoredSchedule):
                    due.append(one)
                else:
                    raise InvalidPlan(one.reason)
            except UNUSABLE as error:
                log.error("schedule %s cannot be %s here: %s", one.name, "edited" if asked else "fired", error)
                errors.append((one.name, brief(error), asked is not None))
                if asked is None:
                    self.leave_alone([one.name])
        if errors:
            await db.run_async(conn, self._queries.schedules.record_errors(errors))
        return due

    async def _apply_edit(
        self, conn: db.AsyncConnection, one: FoundSchedule, asked: dict[str, object], most: int
    ) -> None:
        """Change a definition as of the moment of the request. The next step fires it."""
        moment, by = datetime.fromisoformat(str(asked["at"])), str(asked["by"])
        schedule = changed(one.row, one.args, asked["changes"])  # type: ignore[arg-type]  # an object, by its function
        why = f"passed before {by} edited the schedule"
        ticks = settle_ticks(one.state, moment, why, most) if isinstance(one, StoredSchedule) else []
        await db.run_async(conn, self._queries.schedules.record_ticks(ticks))
        await db.run_async(conn, self._queries.schedules.redefine(schedule, schedule.after(moment), moment, by))

    async def _decide(self, conn: db.AsyncConnection, due: Sequence[StoredSchedule]) -> list[TickDecision]:
        """Decide which ticks fire, by the jobs that are not finished and the ticks that wait.

        After more than CHUNK jobs the schedules that remain are left to the next step, so that the transaction ends.
        """
        states = [one.state for one in due]
        jobs = [job for state in states for job in state.live_jobs]
        unfinished = await db.run_async(conn, self._queries.schedules.unfinished_jobs(jobs)) if jobs else []
        waiting = [state.schedule.name for state in states if state.look_at is not None]
        queued: defaultdict[str, list[TickRecord]] = defaultdict(list)
        for tick in await db.run_async(conn, self._queries.schedules.queued_ticks(waiting)) if waiting else []:
            queued[tick.schedule].append(tick)
        decisions: list[TickDecision] = []
        live, fires = set(unfinished), 0
        for state in states:
            if fires > CHUNK:
                break
            state.live_jobs = [job for job in state.live_jobs if job in live]
            try:
                decisions.append(decide_ticks(state, queued[state.schedule.name], CHUNK // len(states) + 1))
                fires += len(decisions[-1].fires)
            except Exception as error:  # noqa: BLE001 - a plan may fail in any way, and must not hold up the others
                await self._leave(conn, state.schedule.name, error)
        return decisions

    async def _leave(self, conn: db.AsyncConnection, name: str, error: Exception) -> None:
        """Leave a schedule alone for a while, and write the error to its row."""
        log.error("schedule %s cannot be fired here: %s", name, error)
        self.leave_alone([name])
        await db.run_async(conn, self._queries.schedules.record_errors([(name, brief(error), False)]))

    async def _fire(self, conn: db.AsyncConnection, decisions: Sequence[TickDecision]) -> list[DecidedTick]:
        """Write jobs and ticks; return the ticks that fired, with the ids of their jobs."""
        queries = self._queries
        planned = [(decision, tick) for decision in decisions for tick in decision.fires]
        known = await db.run_async(conn, queries.schedules.recorded_ticks([(t.schedule, t.tick) for _, t in planned]))
        fires = [(decision, tick) for decision in decisions for tick in decision.dequeued]
        fires += [(decision, tick) for decision, tick in planned if (tick.schedule, tick.tick) not in known]
        fired = []
        for (decision, tick), row in zip(fires, await self._enqueue(conn, fires), strict=True):
            fired.append((decision, replace(tick, outcome="fired", job_id=row.id)))
            if decision.state.schedule.overlap != "allow":
                decision.state.live_jobs.append(row.id)
        for job in (job for decision in decisions for job in decision.cancels):
            await db.run_async(conn, queries.jobs.cancel(job, "a later tick of its schedule takes its place"))
        ticks = [tick for decision in decisions for tick in decision.unfired] + [tick for _, tick in fired]
        moved = [(decision.state, self._settings.poll_seconds if decision.queued else None) for decision in decisions]
        await db.run_async(conn, queries.schedules.record_ticks(ticks, moved))
        return fired

    async def _enqueue(self, conn: db.AsyncConnection, fires: Sequence[DecidedTick]) -> list[InsertedJob]:
        """Insert the jobs of ticks."""
        if not fires:
            return []
        jobs = [decision.state.schedule.job_of(tick.tick) for decision, tick in fires]
        headers = [decision.state.schedule.headers_of(tick.tick) for decision, tick in fires]
        return await db.run_async(conn, enqueue_ticks(self._app, jobs, headers))


def _events(decisions: Sequence[TickDecision], fired: Sequence[DecidedTick]) -> list[Event]:
    """Log what was committed; return the events of it."""
    events: list[Event] = []
    for decision in decisions:
        for outcome, kind in (("missed", ScheduleMissed), ("skipped", ScheduleSkipped)):
            ticks = [tick for tick in decision.unfired if tick.outcome == outcome]
            if ticks:
                name, reason = ticks[-1].schedule, ticks[-1].reason or ""
                log.warning("schedule %s: %d ticks %s up to %s", name, len(ticks), outcome, ticks[-1].tick)
                events.append(kind(name, ticks[0].tick, ticks[-1].tick, len(ticks), reason))
    for decision, tick in fired:
        if tick.job_id is None:
            continue
        lag, task = (decision.state.now - tick.tick).total_seconds(), decision.state.schedule.job.task
        log.info("schedule %s fired %s for %s (%d missed)", tick.schedule, task, tick.tick, decision.missed)
        events.append(ScheduleFired(tick.schedule, tick.tick, tick.job_id, decision.missed, lag))
    return events
