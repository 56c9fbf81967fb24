"""What becomes of the ticks of a schedule: a pure decision from what the row says, the clock, and what still runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pgqueue.schedules.plan import newest_ticks, passed_ticks
from pgqueue.schedules.schedule import Schedule, most_fires

MOST_QUEUED = 1000
MOST_SETTLED = 100_000  # ticks that one transaction tells when plans are replaced


@dataclass(frozen=True, slots=True)
class Tick:
    """What became of one tick. `job_id` if it fired; `by` whom, if nobody's plan but somebody wanted it."""

    schedule: str
    tick: datetime
    outcome: str
    reason: str | None = None
    job_id: int | None = None
    by: str | None = None


@dataclass(slots=True)
class State:
    """A schedule's row as it was locked. `now` is the database's time at that moment.

    A pause that is over is a gap, until its ticks are told.
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
    edit_asked: dict[str, Any] | None = None
    error: str | None = None

    @property
    def active(self) -> bool:
        """Whether its plan counts now."""
        return self.paused_at is None and not self.disabled

    def wake(self) -> None:
        """End a pause whose time is over, and find the first tick of a row that SQL made."""
        if self.paused_at is not None and self.paused_until is not None and self.paused_until <= self.now:
            untold = self.gap_to is not None and self.next_tick is not None and self.next_tick <= self.gap_to
            self.gap_from = self.gap_from if untold else self.paused_at
            self.gap_to = self.paused_until
            self.gap_by, self.paused_at, self.paused_until = self.paused_by, None, None
        if self.replan_from is not None:
            self.next_tick, self.replan_from = self.schedule.after(self.replan_from), None


@dataclass(slots=True)
class Look:
    """What a scheduler does about one schedule: ticks that fire, those that somebody waited for, those that do not."""

    state: State
    fires: list[Tick] = field(default_factory=list)
    drained: list[Tick] = field(default_factory=list)
    others: list[Tick] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    queued: int = 0

    @property
    def missed(self) -> int:
        """How many ticks were missed."""
        return sum(tick.outcome == "missed" for tick in self.others)


def look(state: State, queued: Sequence[Tick], chunk: int) -> Look:
    """Decide what becomes of the ticks that have passed, at most `chunk` of them at a time (more only if they fire).

    `state.live_jobs` are the jobs of earlier ticks that are not finished, `queued` the ticks that wait, oldest first.
    Moves `state` on to the next tick.
    """
    state.wake()
    state.error = None
    found = Look(state)
    _drain(found, queued)
    if state.active and state.next_tick is not None and state.next_tick <= state.now:
        _overlap(found, list(_passed(found, state, state.next_tick, chunk)))
    return found


def _drain(found: Look, queued: Sequence[Tick]) -> None:
    """Fire the ticks that somebody asked for, and as many of the waiting ones as there is room for."""
    schedule = found.state.schedule
    room = (schedule.max_running or MOST_QUEUED) - len(found.state.live_jobs)
    for tick in queued:
        if tick.by is None and room <= 0:
            found.queued += 1
            continue
        found.drained.append(tick)
        room -= 1


def _passed(found: Look, state: State, first: datetime, chunk: int) -> Iterator[datetime]:
    """Yield the ticks that may fire, oldest first; those that may not are told at once.

    Ticks up to the beginning of a gap, within it, and after it follow each other, a look at a time.
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
    if state.next_tick is not None and state.next_tick <= end:  # there are more: none of these fires unless newest
        newest = newest_ticks(schedule, state.next_tick, end, most) if most else []
        most = max(0, most - len(newest))
    if state.gap_to is not None and (state.next_tick is None or state.next_tick > state.gap_to):
        state.gap_from = state.gap_to = None
    fires = oldest[max(0, len(oldest) - most) :]
    for tick in oldest[: len(oldest) - len(fires)]:
        found.others.append(_unfired(state, tick, policy, paused))
    for tick in fires:
        if not paused and schedule.is_too_late(state.now - tick):
            found.others.append(_unfired(state, tick, "grace", paused))
        else:
            yield tick


def _unfired(state: State, tick: datetime, policy: str, paused: bool) -> Tick:
    if paused:
        return Tick(state.schedule.name, tick, "skipped", f"paused by {state.gap_by or 'somebody'}")
    late = _said(state.now - tick)
    why = "later than its grace" if policy == "grace" else f"misfire is {policy}"
    return Tick(state.schedule.name, tick, "missed", f"no scheduler looked until {late} later, {why}")


def _overlap(found: Look, ticks: list[datetime]) -> None:
    """Decide by the jobs of earlier ticks which of the ticks fire now."""
    state, schedule = found.state, found.state.schedule
    name, most = schedule.name, schedule.max_running or 0
    running = len(state.live_jobs) + len(found.drained)
    for index, tick in enumerate(ticks):
        match schedule.overlap:
            case "skip" if running >= most:
                found.others.append(Tick(name, tick, "skipped", f"{running} jobs of earlier ticks are not finished"))
            case "queue" if found.queued >= MOST_QUEUED:
                found.others.append(Tick(name, tick, "skipped", f"{found.queued} earlier ticks are queued"))
            case "queue" if found.queued or running >= most:
                found.queued += 1
                found.others.append(Tick(name, tick, "queued", f"{running} jobs of earlier ticks are not finished"))
            case "cancel_running" if len(ticks) - index > most:
                found.others.append(Tick(name, tick, "skipped", "a later tick takes its place"))
            case _:
                running += 1
                found.fires.append(Tick(name, tick, "fired"))
    if schedule.overlap == "cancel_running" and found.fires:
        found.cancels = state.live_jobs[: max(0, running - most)]


def settled(state: State, moment: datetime, why: str, most: int = MOST_SETTLED) -> list[Tick]:
    """Return what becomes of ticks that have passed by `moment` when the plan they belong to is replaced.

    Of more than `most` the newest are told; the first of those says since when there were others.
    """
    state.wake()
    first, name = state.next_tick, state.schedule.name
    if first is None or first > moment or state.disabled:
        return []
    ticks = newest_ticks(state.schedule, first, moment, most)
    told = [_settled(state, tick, why) for tick in ticks]
    if ticks and ticks[0] > first:
        told[0] = Tick(name, ticks[0], told[0].outcome, f"{told[0].reason}; all since {first.isoformat()} as well")
    return told


def _settled(state: State, tick: datetime, why: str) -> Tick:
    by = None
    if state.gap_from is not None and state.gap_to is not None and state.gap_from < tick <= state.gap_to:
        by = state.gap_by or "somebody"
    elif state.paused_at is not None and state.paused_at < tick:
        by = state.paused_by or "somebody"
    if by is None:
        return Tick(state.schedule.name, tick, "missed", why)
    return Tick(state.schedule.name, tick, "skipped", f"paused by {by}")


def _said(late: timedelta) -> str:
    return f"{late.total_seconds():.1f} s"
