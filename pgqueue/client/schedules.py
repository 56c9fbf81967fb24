"""Schedules as users handle them: declared in code, made and changed at run time, in the caller's transaction."""

import dataclasses
import getpass
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol, Unpack

from pgqueue.client.app_parts import AppParts
from pgqueue.client.new_job import as_job
from pgqueue.client.schedule_options import GivenPlan, ScheduleOptions, build, edited
from pgqueue.client.session import Own, Session
from pgqueue.config import check_name
from pgqueue.db.steps import Steps
from pgqueue.errors import InvalidOption, InvalidPlan, ScheduleExists, UnknownSchedule
from pgqueue.jobs.job import Job, NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.queries import Queries, Query
from pgqueue.queries.schedules.read import ScheduleStatus
from pgqueue.queries.schedules.stored import FoundSchedule, StoredSchedule, UnreadableSchedule
from pgqueue.schedules.in_words import Upcoming, preview
from pgqueue.schedules.plan import check_moment
from pgqueue.schedules.schedule import Schedule, check_policy
from pgqueue.schedules.ticks import Tick, settled
from pgqueue.tasks.sealing import open_job

__all__ = ["GivenPlan", "ScheduleClient", "ScheduleOptions", "Schedules"]


class Named(Protocol):
    """A task, as far as its name goes."""

    @property
    def name(self) -> str: ...


class ScheduleClient:
    """The verbs on schedules, on one connection: `app.schedules.using(conn)`. Each has an async twin with an `a`.

    On a borrowed connection each takes effect if and only if the caller's transaction commits. `by` names who did it;
    the default is the user of this process.
    """

    def __init__(self, home: AppParts, conn: object = Own.CONNECTION) -> None:
        self._home = home
        self._session = Session(home, conn)

    @property
    def _queries(self) -> Queries:
        return self._home.queries

    def create(
        self,
        name: str,
        task: str | Named,
        plan: GivenPlan | None = None,
        /,
        *,
        at: datetime | None = None,
        replace: bool = False,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleStatus:
        """Make a schedule of a task, given as such or by its name. Raises ScheduleExists, unless told to `replace`."""
        schedule = build(self._home, name, _task_name(task), plan, at, options)
        return self._session.perform(self._create(schedule, replace, by))

    async def acreate(
        self,
        name: str,
        task: str | Named,
        plan: GivenPlan | None = None,
        /,
        *,
        at: datetime | None = None,
        replace: bool = False,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleStatus:
        """Make a schedule of a task, given as such or by its name. Raises ScheduleExists, unless told to `replace`."""
        schedule = build(self._home, name, _task_name(task), plan, at, options)
        return await self._session.aperform(self._create(schedule, replace, by))

    def edit(
        self,
        name: str,
        plan: GivenPlan | None = None,
        /,
        *,
        at: datetime | None = None,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleStatus:
        """Change what is given, and leave the rest. A schedule of the code keeps the edit until `revert`."""
        return self._session.perform(self._edit(name, plan, at, by, options))

    async def aedit(
        self,
        name: str,
        plan: GivenPlan | None = None,
        /,
        *,
        at: datetime | None = None,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleStatus:
        """Change what is given, and leave the rest. A schedule of the code keeps the edit until `revert`."""
        return await self._session.aperform(self._edit(name, plan, at, by, options))

    def revert(self, name: str) -> ScheduleStatus:
        """Give up the edits of a schedule that the code declares."""
        return self._session.perform(self._revert(name))

    async def arevert(self, name: str) -> ScheduleStatus:
        """Give up the edits of a schedule that the code declares."""
        return await self._session.aperform(self._revert(name))

    def pause(
        self, name: str, *, until: datetime | None = None, by: str | None = None, catch_up: str = "skip"
    ) -> ScheduleStatus:
        """Let no tick fire, until a moment or until `resume`. `catch_up`: what becomes of the ticks of the pause when
        it ends by itself: "skip", "once" (the newest fires) or "all(limit)"."""
        return self._session.perform(self._pause(name, until, by, catch_up))

    async def apause(
        self, name: str, *, until: datetime | None = None, by: str | None = None, catch_up: str = "skip"
    ) -> ScheduleStatus:
        """Let no tick fire, until a moment or until `resume`. `catch_up`: what becomes of the ticks of the pause when
        it ends by itself: "skip", "once" (the newest fires) or "all(limit)"."""
        return await self._session.aperform(self._pause(name, until, by, catch_up))

    def resume(self, name: str, *, catch_up: str | None = None) -> ScheduleStatus:
        """End a pause now. `catch_up` as in `pause`; without one that of the pause stands. Also brings back a schedule
        that was disabled because the code dropped it."""
        return self._session.perform(self._resume(name, catch_up))

    async def aresume(self, name: str, *, catch_up: str | None = None) -> ScheduleStatus:
        """End a pause now. `catch_up` as in `pause`; without one that of the pause stands. Also brings back a schedule
        that was disabled because the code dropped it."""
        return await self._session.aperform(self._resume(name, catch_up))

    def run(self, name: str, *, by: str | None = None) -> Job:
        """Fire now, whatever the plan, a pause or an overlap says; return the job. Its tick is this moment."""
        return self._session.perform(self._run(name, by))

    async def arun(self, name: str, *, by: str | None = None) -> Job:
        """Fire now, whatever the plan, a pause or an overlap says; return the job. Its tick is this moment."""
        return await self._session.aperform(self._run(name, by))

    def delete(self, name: str) -> None:
        """Delete a schedule; what became of its ticks stays. One that the code declares comes back with the next
        scheduler: pause it, or take it out of the code."""
        return self._session.perform(self._delete(name))

    async def adelete(self, name: str) -> None:
        """Delete a schedule; what became of its ticks stays. One that the code declares comes back with the next
        scheduler: pause it, or take it out of the code."""
        return await self._session.aperform(self._delete(name))

    def get(self, name: str) -> ScheduleStatus:
        """Return a schedule. Raises UnknownSchedule."""
        return self._session.perform(self._get(name))

    async def aget(self, name: str) -> ScheduleStatus:
        """Return a schedule. Raises UnknownSchedule."""
        return await self._session.aperform(self._get(name))

    def list(self, *, after: str | None = None, limit: int = 1000) -> Sequence[ScheduleStatus]:
        """Return schedules by name, those `after` one of them."""
        return self._session.run(self._queries.schedules.list(None, after, limit))

    async def alist(self, *, after: str | None = None, limit: int = 1000) -> Sequence[ScheduleStatus]:
        """Return schedules by name, those `after` one of them."""
        return await self._session.arun(self._queries.schedules.list(None, after, limit))

    def ticks(self, name: str, *, limit: int = 20, before: datetime | None = None) -> Sequence[Tick]:
        """Return what became of the newest ticks of a schedule, newest first."""
        return self._session.run(self._queries.schedules.list_ticks(name, limit, before))

    async def aticks(self, name: str, *, limit: int = 20, before: datetime | None = None) -> Sequence[Tick]:
        """Return what became of the newest ticks of a schedule, newest first."""
        return await self._session.arun(self._queries.schedules.list_ticks(name, limit, before))

    def definition(self, name: str) -> Schedule:
        """Return what a schedule says. Raises UnknownSchedule; InvalidPlan for one that cannot be used."""
        return self._session.perform(self._definition(name))

    async def adefinition(self, name: str) -> Schedule:
        """Return what a schedule says. Raises UnknownSchedule; InvalidPlan for one that cannot be used."""
        return await self._session.aperform(self._definition(name))

    def preview(self, name: str, count: int = 5) -> Sequence[Upcoming]:
        """Return the next ticks that the plan of a schedule has after now, in plain words."""
        return self._session.perform(self._preview(name, count))

    async def apreview(self, name: str, count: int = 5) -> Sequence[Upcoming]:
        """Return the next ticks that the plan of a schedule has after now, in plain words."""
        return await self._session.aperform(self._preview(name, count))

    def _get(self, name: str) -> Steps[ScheduleStatus]:
        found = yield self._queries.schedules.list(name)
        if not found:
            raise _unknown(name)
        return found[0]  # type: ignore[no-any-return]

    def _locked(self, name: str) -> Steps[StoredSchedule]:
        return _usable(name, (yield self._queries.schedules.lock(name)))

    def _read(self, name: str) -> Steps[StoredSchedule]:
        found = yield self._queries.schedules.read([name])
        return _usable(name, found[0] if found else None)

    def _definition(self, name: str) -> Steps[Schedule]:
        return (yield from self._read(name)).schedule

    def _preview(self, name: str, count: int) -> Steps[Sequence[Upcoming]]:
        due = yield from self._read(name)
        return preview(due.schedule, due.schedule.plan.timezone, due.state.now, count)

    def _create(self, schedule: Schedule, replacing: bool, by: str | None) -> Steps[ScheduleStatus]:
        now = yield self._queries.schedules.clock()
        tick = schedule.after(now)
        if tick is None:
            raise InvalidPlan(
                f"schedule {schedule.name!r} has no tick after now: give a later moment, or enqueue the job"
            )
        if not (yield self._queries.schedules.create(schedule, tick, _who(by))):
            if not replacing:
                raise ScheduleExists(f"a schedule is called {schedule.name!r} already: edit it, or give replace=True")
            due = yield self._queries.schedules.lock(schedule.name)
            yield from self._redefine(due, schedule, now, _who(by))
        yield self._queries.schedules.wake_schedulers()
        return (yield from self._get(schedule.name))

    def _edit(
        self, name: str, plan: GivenPlan | None, at: datetime | None, by: str | None, options: ScheduleOptions
    ) -> Steps[ScheduleStatus]:
        due = yield from self._locked(name)
        schedule = edited(self._home, due.schedule, plan, at, options)
        yield from self._redefine(due, schedule, due.state.now, _who(by))
        yield self._queries.schedules.wake_schedulers()
        return (yield from self._get(name))

    def _redefine(self, due: FoundSchedule | None, new: Schedule, now: datetime, by: str | None) -> Steps[None]:
        """Put a definition in the place of a locked one. Ticks of an older plan that have passed are told first; where
        the plan is the same they go on to wait for a scheduler."""
        tick = new.after(now)
        if isinstance(due, StoredSchedule):
            same = (due.schedule.plan, due.schedule.start, due.schedule.end) == (new.plan, new.start, new.end)
            if same:
                due.state.wake()
                tick = due.state.next_tick
            else:
                ticks = settled(due.state, now, f"passed before {by or 'the code'} changed the plan")
                yield self._queries.schedules.record_ticks(ticks)
        if tick is None and not (isinstance(due, StoredSchedule) and same):
            raise InvalidPlan(f"schedule {new.name!r} would have no tick after now: delete it, or give a later moment")
        keep = isinstance(due, StoredSchedule) and same
        yield self._queries.schedules.redefine(new, tick, None if by is None else now, by, keep_gap=keep)

    def _revert(self, name: str) -> Steps[ScheduleStatus]:
        due = yield self._queries.schedules.lock(name)
        declared = yield self._queries.schedules.declaration(name)
        if due is None:
            raise _unknown(name)
        if declared is None:
            raise InvalidOption(f"schedule {name!r} was made at run time: the code does not say what it was")
        now = due.state.now if isinstance(due, StoredSchedule) else (yield self._queries.schedules.clock())
        yield from self._redefine(due, declared, now, None)
        yield self._queries.schedules.wake_schedulers()
        return (yield from self._get(name))

    def _pause(self, name: str, until: datetime | None, by: str | None, catch_up: str) -> Steps[ScheduleStatus]:
        if until is not None:
            until = check_moment("until", until)
            if until <= (yield self._queries.schedules.clock()):
                raise InvalidOption(f"until={until} has passed: give a later moment")
        found = yield self._queries.schedules.pause(name, until, _who(by), check_policy("catch_up", catch_up))
        if not found:
            raise _unknown(name)
        return (yield from self._get(name))

    def _resume(self, name: str, catch_up: str | None) -> Steps[ScheduleStatus]:
        policy = None if catch_up is None else check_policy("catch_up", catch_up)
        if not (yield self._queries.schedules.resume(name, policy)):
            raise _unknown(name)
        return (yield from self._get(name))

    def _run(self, name: str, by: str | None) -> Steps[Job]:
        due = yield from self._locked(name)
        state, tick = due.state, due.state.now
        job = due.schedule.job_of(tick)
        (row,) = yield enqueue_ticks(self._home, [job], [due.schedule.headers_of(tick)])
        look = None if state.look_at is None else max(0.0, (state.look_at - state.now).total_seconds())
        state.wake()
        if due.schedule.overlap != "allow":
            state.live_jobs.append(row.id)
        fired = Tick(name, tick, "fired", None, row.id, _who(by))
        yield self._queries.schedules.record_ticks([fired], [(state, look)])
        codec, made = self._queries.jobs.codec, as_job(job, row)
        return self._session.tell(made if codec is None else open_job(codec, made))

    def _delete(self, name: str) -> Steps[None]:
        if not (yield self._queries.schedules.delete(name)):
            raise _unknown(name)


class Schedules(ScheduleClient):
    """The schedules of an app: those its code declares, by name, and the verbs on all of them, each on a connection of
    pgqueue's own, committed at once. `using(conn)` has the same verbs in the caller's transaction."""

    def __init__(self, home: AppParts) -> None:
        super().__init__(home)
        self._declared: dict[str, Schedule] = {}

    def using(self, conn: object, /) -> ScheduleClient:
        """Bind a connection to borrow. It is never committed and never closed."""
        return ScheduleClient(self._home, conn)

    def declare(
        self,
        name: str,
        task: str | Named,
        plan: GivenPlan | None = None,
        /,
        *,
        at: datetime | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Declare a schedule in code, as `@app.schedule(…)` does. Schedulers make it a row.

        What the code declares no longer is disabled when the last scheduler that declares it has ended.
        """
        schedule = build(self._home, name, _task_name(task), plan, at, options)
        if self._declared.setdefault(schedule.name, schedule) != schedule:
            raise InvalidOption(f"two schedules are called {schedule.name!r}: give one of them name=…")
        return schedule

    def __getitem__(self, name: str) -> Schedule:
        return self._declared[name]

    def __contains__(self, name: object) -> bool:
        return name in self._declared

    def __iter__(self) -> Iterator[str]:
        return iter(self._declared)

    def __len__(self) -> int:
        return len(self._declared)

    def values(self) -> Sequence[Schedule]:
        """What the code declares."""
        return tuple(self._declared.values())


def enqueue_ticks(home: AppParts, jobs: Sequence[NewJob], headers: Sequence[str]) -> Query[Any]:
    """Insert the jobs of ticks. Where a schedule does not say when they expire their task may; what else it says of
    enqueueing, its keys, is for callers."""
    timed = [_expiring(home, job) for job in jobs]
    if any(job.conditions is not None for job in timed):
        return home.queries.jobs.enqueue_conditionally(timed, headers)
    return home.queries.jobs.enqueue(timed, headers)


def _expiring(home: AppParts, job: NewJob) -> NewJob:
    spec = home.tasks.get(job.task)
    if job.conditions is not None or spec is None or spec.rules is None or spec.rules.expires is None:
        return job
    return dataclasses.replace(job, conditions=Conditions(expires=spec.rules.expires))


def _task_name(task: str | Named) -> str:
    """Return the name of a task that is given as such, or by its name."""
    return check_name("task", task if isinstance(task, str) else getattr(task, "name", None))


def _who(by: str | None) -> str:
    if by is not None:
        return check_name("by", by)
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        return "somebody"


def _usable(name: str, found: FoundSchedule | None) -> StoredSchedule:
    """Return a schedule that was found and can be read."""
    if found is None:
        raise _unknown(name)
    if isinstance(found, UnreadableSchedule):
        raise InvalidPlan(f"schedule {name!r}: {found.reason} (create(…, replace=True) puts it right)")
    return found


def _unknown(name: str) -> UnknownSchedule:
    return UnknownSchedule(f"no schedule is called {name!r}: never committed, or deleted")
