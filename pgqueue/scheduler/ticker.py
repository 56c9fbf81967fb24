"""The duty that fires schedules: a tick whose time has come becomes a job."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

import psycopg

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.schedules import enqueue_ticks
from pgqueue.db.failures import blames_data, brief
from pgqueue.db.link import Link
from pgqueue.errors import DatabaseNotReady, InvalidPlan
from pgqueue.events import Event, ScheduleFired, ScheduleMissed, ScheduleSkipped
from pgqueue.process.duty import Duty
from pgqueue.queries import Query
from pgqueue.queries.jobs.enqueue import InsertedJob
from pgqueue.queries.schedules.fire import MOST_RUNS
from pgqueue.queries.schedules.stored import (
    BrokenJson,
    FoundSchedule,
    StoredSchedule,
    UnreadableSchedule,
    read_schedule,
)
from pgqueue.scheduler.computing import compute_each
from pgqueue.scheduler.settings import SchedulerSettings
from pgqueue.schedules.schedule import Schedule, changed
from pgqueue.schedules.ticks import MOST_SETTLED, ScheduleState, TickDecision, TickRecord, decide_ticks, settle_ticks
from pgqueue.tasks.sealing import seal_args
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.scheduler")
BATCH = 500
CHUNK = 20_000  # ticks that one transaction records
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
        except Exception as error:
            if not _blames_one(error):
                raise
            await self._one_by_one()
        self._batch = min(2 * asked, BATCH)
        return 0.0 if found == asked else await self._rest(found)

    async def fire_all(self, stopping: asyncio.Event) -> None:
        """Fire whatever is due now. A schedule that another scheduler has locked is left to that one."""
        while not stopping.is_set() and await self.step() <= 0:
            pass

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
            found = await self._lock_due(conn, at_most)
            self._locked = [one.name for one in found]
            if not found:
                return 0
            due = await self._apply_edits(conn, found)
            decisions = await self._decide(conn, due)
            fired = await self._fire(conn, decisions)
        for event in _events(decisions, fired):
            self._app.listeners.emit(event)
        return len(found)

    async def _lock_due(self, conn: db.AsyncConnection, at_most: int) -> list[FoundSchedule]:
        """Lock due schedules. Their rows are read apart from the event loop, for a plan is computed when it is read."""
        query = self._queries.schedules.lock_due(at_most, self._unusable)
        rows = await db.run_async(conn, Query(query.sql, list, query.params))
        read = await compute_each(read_schedule, rows)
        return [
            UnreadableSchedule(row[0], str(one)) if isinstance(one, Exception) else one
            for row, one in zip(rows, read, strict=True)
        ]

    async def _one_by_one(self) -> None:
        """Fire each schedule in a transaction of its own, after one has failed that of a batch.

        One that fails alone is left alone for a while, and the error is written to its row.
        """
        while True:
            try:
                if not await self.fire(1):
                    return
            except Exception as error:
                if not _blames_one(error) or not self._locked:
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
            except Exception as error:
                if not _blames_one(error):
                    raise
                what = "fired" if asked is None else "edited"
                log.error("schedule %s cannot be %s here: %s", one.name, what, brief(error))
                errors.append((one.name, brief(error), asked is not None))
                if asked is None:
                    self.leave_alone([one.name])
        if errors:
            await db.run_async(conn, self._queries.schedules.record_errors(errors))
        return due

    async def _apply_edit(self, conn: db.AsyncConnection, one: FoundSchedule, asked: object, most: int) -> None:
        """Change a definition as of the moment of the request. The next step fires it."""
        (edit,) = await compute_each(lambda one: _planned_edit(one, asked, most), [one])
        if isinstance(edit, Exception):
            raise edit
        queries = self._queries.schedules
        await db.run_async(conn, queries.record_ticks(edit.ticks))
        await db.run_async(conn, queries.redefine(edit.schedule, edit.next_tick, edit.moment, edit.by))

    async def _decide(self, conn: db.AsyncConnection, due: Sequence[StoredSchedule]) -> list[TickDecision]:
        """Decide which ticks fire, by the jobs that are not finished and the ticks that wait.

        After more than CHUNK jobs the schedules that remain are left to the next step, so that the transaction ends.
        """
        states = [one.state for one in due]
        jobs = [job for state in states for job in state.live_jobs]
        unfinished = await db.run_async(conn, self._queries.schedules.unfinished_jobs(jobs)) if jobs else []
        queued = await self._queued(conn, [state.schedule.name for state in states if state.look_at is not None])
        decisions: list[TickDecision] = []
        live, fires = set(unfinished), 0
        share = MOST_RUNS // max(1, sum(state.look_at is not None for state in states))
        for state in states:
            state.live_jobs = [job for job in state.live_jobs if job in live]

        def decide(state: ScheduleState) -> TickDecision | None:
            nonlocal fires
            if fires > CHUNK:
                return None
            name = state.schedule.name
            decision = decide_ticks(state, queued[name], CHUNK // len(states) + 1)
            decision.more = sum(tick.by is not None for tick in queued[name]) >= share
            self._make_jobs(decision)
            fires += len(decision.fires)
            return decision

        for state, decision in zip(states, await compute_each(decide, states), strict=True):
            if isinstance(decision, Exception):
                await self._leave(conn, state.schedule.name, decision)
            elif decision is not None:
                decisions.append(decision)
        return decisions

    async def _queued(self, conn: db.AsyncConnection, waiting: Sequence[str]) -> defaultdict[str, list[TickRecord]]:
        """Read the ticks that wait. Each schedule has a share of the runs that one transaction fires."""
        queued: defaultdict[str, list[TickRecord]] = defaultdict(list)
        if waiting:
            query = self._queries.schedules.queued_ticks(waiting, MOST_RUNS // len(waiting))
            for tick in await db.run_async(conn, query):
                queued[tick.schedule].append(tick)
        return queued

    def _look_after(self, decision: TickDecision) -> float | None:
        """Return after how many seconds a schedule is looked at though it has no tick then; None for never."""
        if decision.more:
            return 0.0
        return self._settings.poll_seconds if decision.queued else None

    def _make_jobs(self, decision: TickDecision) -> None:
        """Make the job of each tick that fires. A codec seals its arguments here, where it may fail for one of them."""
        schedule, codec = decision.state.schedule, self._queries.schedules.codec
        for tick in (*decision.dequeued, *decision.fires):
            job = schedule.job_of(tick.tick)
            if codec is not None:
                job = replace(job, args=seal_args(codec, job.task, job.args))
            decision.jobs[tick.tick] = job

    async def _leave(self, conn: db.AsyncConnection, name: str, error: Exception) -> None:
        """Leave a schedule alone for a while, and write the error to its row."""
        log.error("schedule %s cannot be fired here: %s", name, brief(error))
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
            await db.run_async(conn, queries.jobs.cancel([job], "a later tick of its schedule takes its place"))
        ticks = [tick for decision in decisions for tick in decision.unfired] + [tick for _, tick in fired]
        moved = [(decision.state, self._look_after(decision)) for decision in decisions]
        await db.run_async(conn, queries.schedules.record_ticks(ticks, moved))
        return fired

    async def _enqueue(self, conn: db.AsyncConnection, fires: Sequence[DecidedTick]) -> list[InsertedJob]:
        """Insert the jobs of ticks."""
        if not fires:
            return []
        jobs = [decision.jobs[tick.tick] for decision, tick in fires]
        if not self._app.enqueue_hooks:
            return await db.run_async(conn, enqueue_ticks(self._app, jobs))
        with ExitStack() as stack:
            around = self._app.enqueue_hooks.around
            calls = [stack.enter_context(around(job, 1, t.schedule)) for job, (_, t) in zip(jobs, fires, strict=True)]
            rows = await db.run_async(conn, enqueue_ticks(self._app, jobs))
            for call, row in zip(calls, rows, strict=True):
                call.job_ids = (row.id,)
            return rows


@dataclass(frozen=True, slots=True)
class _PlannedEdit:
    """What an edit makes of a schedule, and the records of the ticks that passed before it."""

    schedule: Schedule
    next_tick: datetime | None
    moment: datetime
    by: str
    ticks: Sequence[TickRecord]


def _planned_edit(one: FoundSchedule, asked: object, most: int) -> _PlannedEdit:
    """Plan an edit as SQL asked for it. Raises whatever the request leads to: it may hold anything."""
    if isinstance(asked, BrokenJson):
        raise InvalidPlan(f"the edit cannot be read: {asked.reason}")
    if not isinstance(asked, dict):
        raise InvalidPlan("the edit is no object")
    moment, by = datetime.fromisoformat(str(asked["at"])), str(asked["by"])
    schedule = changed(one.row, one.args, asked["changes"])
    why = f"passed before {by} edited the schedule"
    ticks = settle_ticks(one.state, moment, why, most) if isinstance(one, StoredSchedule) else []
    return _PlannedEdit(schedule, schedule.after(moment), moment, by, ticks)


def _blames_one(error: Exception) -> bool:
    """Whether an error may be the fault of one schedule of a batch, and not of the database."""
    if isinstance(error, psycopg.Error):
        return blames_data(error)
    return not isinstance(error, (DatabaseNotReady, OSError))


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
