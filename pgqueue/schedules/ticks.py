"""The ticks of a schedule that have passed: which fire, and why others do not. A pure decision from the schedule's row,
the time, and the jobs that are unfinished."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from pgqueue.jobs.job import NewJob
from pgqueue.schedules.plan import newest_ticks, passed_ticks
from pgqueue.schedules.schedule import Schedule, most_fires

MOST_QUEUED = 1000
MOST_SETTLED = 100_000  # ticks that one transaction records when plans are replaced


@dataclass(frozen=True, slots=True)
class TickRecord:
    """A row of `schedule_fire`: the outcome of one tick. `job_id` if it fired; `by` if it is no tick of the plan, but
    one that was asked for."""

    schedule: str
    tick: datetime
    outcome: str
    reason: str | None = None
    job_id: int | None = None
    by: str | None = None


@dataclass(slots=True)
class ScheduleState:
    """A schedule's row as it was locked. `now` is the database's time at that moment.

    A pause that has ended is kept as a gap (`gap_from`, `gap_to`, `gap_by`) until its ticks are recorded.
    """

    schedule: Schedule
    now: datetime
    next_tick: datetime | None
    paused_at: datetime | None = None
    paused_by: str | None = None
    paused_until: datetime | None = None
    resume_with: str = "skip"
    gap_from: datetime | None = None
    gap_to: datetime | None = None
    gap_by: str | None = None
    live_jobs: list[int] = field(default_factory=list)
    look_at: datetime | None = None
    disabled: bool = False
    replan_from: datetime | None = None
    edit_asked: object = None  # whatever SQL has put there
    error: str | None = None

    @property
    def active(self) -> bool:
        """Whether its plan ticks now: it is neither paused nor disabled."""
        return self.paused_at is None and not self.disabled

    def refresh(self) -> None:
        """End a pause whose time has passed, and find the first tick of a row that SQL made."""
        if self.paused_at is not None and self.paused_until is not None and self.paused_until <= self.now:
            unrecorded = self.gap_to is not None and self.next_tick is not None and self.next_tick <= self.gap_to
            self.gap_from = self.gap_from if unrecorded else self.paused_at
            self.gap_to = self.paused_until
            self.gap_by, self.paused_at, self.paused_until = self.paused_by, None, None
        if self.replan_from is not None:
            self.next_tick, self.replan_from = self.schedule.after(self.replan_from), None


@dataclass(slots=True)
class TickDecision:
    """The decision about the ticks of one schedule.

    `fires`: ticks of the plan that fire. `dequeued`: ticks that fire, and were queued or asked for. `unfired`: ticks
    that do not fire, with the reason. `cancels`: jobs of earlier ticks to cancel. `queued`: how many ticks stay queued.
    `more`: more runs that were asked for may wait. `jobs`: the job of each tick that fires.
    """

    state: ScheduleState
    fires: list[TickRecord] = field(default_factory=list)
    dequeued: list[TickRecord] = field(default_factory=list)
    unfired: list[TickRecord] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    queued: int = 0
    more: bool = False
    jobs: dict[datetime, NewJob] = field(default_factory=dict)

    @property
    def missed(self) -> int:
        """How many ticks were missed."""
        return sum(tick.outcome == "missed" for tick in self.unfired)


def decide_ticks(state: ScheduleState, queued: Sequence[TickRecord], chunk: int) -> TickDecision:
    """Decide about the ticks that have passed, at most `chunk` of them at a time (more only if they fire).

    `state.live_jobs` are the unfinished jobs of earlier ticks, `queued` the queued ticks, oldest first. Moves
    `state.next_tick` on.
    """
    state.refresh()
    state.error = None
    decision = TickDecision(state)
    _dequeue(decision, queued)
    if state.active and state.next_tick is not None and state.next_tick <= state.now:
        _apply_overlap(decision, list(_fireable(decision, state, state.next_tick, chunk)))
    return decision


def _dequeue(decision: TickDecision, queued: Sequence[TickRecord]) -> None:
    """Fire the ticks that were asked for, and as many of the queued ones as `max_running` allows."""
    schedule = decision.state.schedule
    free = (schedule.max_running or MOST_QUEUED) - len(decision.state.live_jobs)
    for tick in queued:
        if tick.by is None and free <= 0:
            decision.queued += 1
            continue
        decision.dequeued.append(tick)
        free -= 1


def _fireable(decision: TickDecision, state: ScheduleState, first: datetime, chunk: int) -> Iterator[datetime]:
    """Yield the ticks that may fire, oldest first; those that may not go to `unfired`.

    Ticks before a gap, within it, and after it are decided one group at a time.
    """
    schedule, policy, end, paused = state.schedule, state.schedule.misfire, state.now, False
    if state.gap_from is not None and state.gap_to is not None:
        paused = state.gap_from < first <= state.gap_to
        if paused:
            policy, end = state.resume_with, min(state.gap_to, state.now)
        elif first <= state.gap_from:
            end = state.gap_from
    most = most_fires(policy) if not (paused and policy == "skip") else 0
    oldest, state.next_tick = passed_ticks(schedule, first, end, max(chunk, most))
    if state.next_tick is not None and state.next_tick <= end:
        # More ticks have passed. Of those in `oldest`, only the ones that are among the newest fire.
        newest = newest_ticks(schedule, state.next_tick, end, most) if most else []
        most = max(0, most - len(newest))
    if state.gap_to is not None and (state.next_tick is None or state.next_tick > state.gap_to):
        state.gap_from = state.gap_to = None
    fires = oldest[max(0, len(oldest) - most) :]
    for tick in oldest[: len(oldest) - len(fires)]:
        decision.unfired.append(_unfired(state, tick, policy, paused))
    for tick in fires:
        if not paused and schedule.is_too_late(state.now - tick):
            decision.unfired.append(_unfired(state, tick, "grace", paused))
        else:
            yield tick


def _unfired(state: ScheduleState, tick: datetime, policy: str, paused: bool) -> TickRecord:
    if paused:
        return TickRecord(state.schedule.name, tick, "skipped", f"paused by {state.gap_by or 'somebody'}")
    late = _seconds(state.now - tick)
    why = "later than its grace" if policy == "grace" else f"misfire is {policy}"
    return TickRecord(state.schedule.name, tick, "missed", f"no scheduler looked until {late} later, {why}")


def _apply_overlap(decision: TickDecision, ticks: list[datetime]) -> None:
    """Decide, by the unfinished jobs of earlier ticks, which of the ticks fire now."""
    state, schedule = decision.state, decision.state.schedule
    record, most = partial(TickRecord, schedule.name), schedule.max_running or 0
    running = len(state.live_jobs) + len(decision.dequeued)
    for index, tick in enumerate(ticks):
        unfinished = f"{running} jobs of earlier ticks are not finished"
        match schedule.overlap:
            case "skip" if running >= most:
                decision.unfired.append(record(tick, "skipped", unfinished))
            case "queue" if decision.queued >= MOST_QUEUED:
                decision.unfired.append(record(tick, "skipped", f"{decision.queued} earlier ticks are queued"))
            case "queue" if decision.queued or running >= most:
                decision.queued += 1
                decision.unfired.append(record(tick, "queued", unfinished))
            case "cancel_running" if len(ticks) - index > most:
                decision.unfired.append(record(tick, "skipped", "a later tick takes its place"))
            case _:
                running += 1
                decision.fires.append(record(tick, "fired"))
    if schedule.overlap == "cancel_running" and decision.fires:
        decision.cancels = state.live_jobs[: max(0, running - most)]


def settle_ticks(state: ScheduleState, moment: datetime, why: str, most: int = MOST_SETTLED) -> list[TickRecord]:
    """Return the records of the ticks that have passed by `moment`, when the plan to which they belong is replaced.

    Of more than `most` ticks, the newest get a record; the reason of the first of those names the first tick of all.
    """
    state.refresh()
    first = state.next_tick
    if first is None or first > moment or state.disabled:
        return []
    ticks = newest_ticks(state.schedule, first, moment, most)
    records = [_settled(state, tick, why) for tick in ticks]
    if ticks and ticks[0] > first:
        records[0] = replace(records[0], reason=f"{records[0].reason}; all since {first.isoformat()} as well")
    return records


def disabled_ticks(state: ScheduleState, since: datetime, most: int = MOST_SETTLED) -> list[TickRecord]:
    """Return the records of the ticks that have passed while a schedule was disabled, when it is enabled again.

    Those that were due before are missed. Of more than `most` ticks, the newest get a record.
    """
    schedule, first = state.schedule, state.next_tick or state.schedule.after(since)
    if first is None or first > state.now:
        return []
    why = "disabled: no release of the app declared it"
    return [
        TickRecord(schedule.name, tick, "skipped", why)
        if tick > since
        else TickRecord(schedule.name, tick, "missed", "passed before it was disabled")
        for tick in newest_ticks(schedule, first, state.now, most)
    ]


def _settled(state: ScheduleState, tick: datetime, why: str) -> TickRecord:
    by = None
    if state.gap_from is not None and state.gap_to is not None and state.gap_from < tick <= state.gap_to:
        by = state.gap_by or "somebody"
    elif state.paused_at is not None and state.paused_at < tick:
        by = state.paused_by or "somebody"
    if by is None:
        return TickRecord(state.schedule.name, tick, "missed", why)
    return TickRecord(state.schedule.name, tick, "skipped", f"paused by {by}")


def _seconds(late: timedelta) -> str:
    return f"{late.total_seconds():.1f} s"
