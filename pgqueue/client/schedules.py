"""Schedules as callers use them: declared in code, or made and changed at run time, in the caller's transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, Unpack

from pgqueue.client.actor import who
from pgqueue.client.app_parts import AppParts
from pgqueue.client.inserting import JobInserter, as_job
from pgqueue.client.schedule_options import GivenPlan, ScheduleOptions, build, edited
from pgqueue.client.scheduled_jobs import of_tick
from pgqueue.client.settings import check_limit
from pgqueue.client.steps import CURRENT_CONNECTION, Steps, all_or_nothing, verb
from pgqueue.config import check_name
from pgqueue.errors import InvalidOption, InvalidPlan, ScheduleExists, UnknownSchedule
from pgqueue.jobs.job import Job, NewJob
from pgqueue.queries import Query
from pgqueue.queries.jobs.enqueue import InsertedJob
from pgqueue.queries.schedules import ScheduleQueries
from pgqueue.queries.schedules.read import ScheduleStatus
from pgqueue.queries.schedules.stored import FoundSchedule, StoredSchedule, UnreadableSchedule
from pgqueue.schedules.in_words import Upcoming, preview
from pgqueue.schedules.plan import check_moment
from pgqueue.schedules.schedule import Schedule, check_policy
from pgqueue.schedules.ticks import TickRecord, settle_ticks
from pgqueue.tasks.sealing import open_job
from pgqueue.timing import LIMIT, check_duration

__all__ = ["GivenPlan", "PausedTicks", "ScheduleClient", "ScheduleOptions", "Schedules"]


@dataclass(frozen=True, slots=True)
class PausedTicks:
    """What a pause of a schedule would pass by: when it would end, None where only a resume ends it; the ticks until
    then; and whether there are more of them."""

    until: datetime | None
    ticks: Sequence[Upcoming]
    has_more: bool


class HasName(Protocol):
    """A task: a schedule uses only its name."""

    @property
    def name(self) -> str: ...


class ScheduleClient:
    """The verbs on schedules, on one connection: `app.schedules.using(conn)`. Each has an async twin with an `a`.

    On a borrowed connection each takes effect if and only if the caller's transaction commits. `by` names the person
    who changes a schedule; the default is the user of this process.
    """

    def __init__(self, app: AppParts, conn: object = CURRENT_CONNECTION) -> None:
        self._app = app
        self._runner = JobInserter(app, conn)

    @verb
    def create(
        self,
        name: str,
        task: str | HasName,
        plan: GivenPlan | None = None,
        /,
        *,
        replace: bool = False,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Steps[ScheduleStatus]:
        """Make a schedule of a task, given as such or by its name. Raises ScheduleExists, unless `replace` is true."""
        schedule = build(self._app, name, _task_name(task), plan, options)
        return (yield from self._put(schedule, replace, by))

    acreate = create.twin

    @all_or_nothing
    def _put(self, schedule: Schedule, replace: bool, by: str | None) -> Steps[ScheduleStatus]:
        now = yield self._queries.clock()
        tick = schedule.after(now)
        if tick is None:
            raise InvalidPlan(
                f"schedule {schedule.name!r} has no tick after now: give a later moment, or enqueue the job"
            )
        if not (yield self._queries.create(schedule, tick, who(by))):
            if not replace:
                raise ScheduleExists(f"a schedule is called {schedule.name!r} already: edit it, or give replace=True")
            stored = yield self._queries.lock(schedule.name)
            yield from self._redefine(stored, schedule, now, who(by))
        yield self._queries.wake_schedulers()
        return (yield from self._found(schedule.name))

    @verb
    @all_or_nothing
    def edit(
        self,
        name: str,
        plan: GivenPlan | None = None,
        /,
        *,
        by: str | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Steps[ScheduleStatus]:
        """Change what is given, and leave the rest. A schedule of the code keeps the edit until `revert`."""
        stored = yield from self._locked(name)
        schedule = edited(self._app, stored.schedule, plan, options)
        yield from self._redefine(stored, schedule, stored.state.now, who(by))
        yield self._queries.wake_schedulers()
        return (yield from self._found(name))

    aedit = edit.twin

    @verb
    @all_or_nothing
    def revert(self, name: str) -> Steps[ScheduleStatus]:
        """Undo the edits of a schedule that the code declares."""
        stored = yield self._queries.lock(_schedule_name(name))
        declared = yield self._queries.declaration(name)
        if stored is None:
            raise _unknown(name)
        if declared is None:
            raise InvalidOption(f"schedule {name!r} was made at run time: the code declares nothing to go back to")
        now = stored.state.now if isinstance(stored, StoredSchedule) else (yield self._queries.clock())
        yield from self._redefine(stored, declared, now, None)
        yield self._queries.wake_schedulers()
        return (yield from self._found(name))

    arevert = revert.twin

    @verb
    @all_or_nothing
    def pause(
        self,
        name: str,
        *,
        until: datetime | timedelta | float | None = None,
        by: str | None = None,
        catch_up: str = "skip",
    ) -> Steps[ScheduleStatus]:
        """Fire no tick, until a moment, for a duration (seconds or timedelta), or until `resume`. `catch_up`: which
        ticks of the pause fire when it ends by itself: "skip" (none), "once" (the newest) or "all(limit)"."""
        end = None if until is None else _end_of_pause(until, (yield self._queries.clock()))
        policy = check_policy("catch_up", catch_up)
        found = yield self._queries.pause(_schedule_name(name), end, who(by), policy)
        if not found:
            raise _unknown(name)
        return (yield from self._found(name))

    apause = pause.twin

    @verb
    def preview_pause(
        self, name: str, *, until: datetime | timedelta | float | None = None, limit: int = 100
    ) -> Steps[PausedTicks]:
        """Return what a pause would pass by: when it would end, and the ticks until then, at most `limit` of them."""
        count = check_limit(limit)
        stored = yield from self._read(name)
        end = None if until is None else _end_of_pause(until, stored.state.now)
        found = preview(stored.schedule, stored.schedule.plan.timezone, stored.state.now, count + 1)
        passed = [each for each in found if end is None or each.tick < end]
        return PausedTicks(end, passed[:count], len(passed) > count)

    apreview_pause = preview_pause.twin

    @verb
    @all_or_nothing
    def resume(self, name: str, *, catch_up: str | None = None) -> Steps[ScheduleStatus]:
        """End a pause now. `catch_up` as in `pause`; the default is what the pause was given. Also enables a schedule
        again that was disabled because the code no longer declared it."""
        policy = None if catch_up is None else check_policy("catch_up", catch_up)
        if not (yield self._queries.resume(_schedule_name(name), policy)):
            raise _unknown(name)
        return (yield from self._found(name))

    aresume = resume.twin

    @verb
    @all_or_nothing
    def run(self, name: str, *, by: str | None = None) -> Steps[Job]:
        """Fire now, whatever the plan, a pause or an overlap says; return the job. Its tick is this moment."""
        stored = yield from self._locked(name)
        state, tick = stored.state, stored.state.now
        job = stored.schedule.job_of(tick)
        with self._app.enqueue_hooks.around(job, 1, name) as call:
            job = of_tick(self._app, job)
            (row,) = yield self._app.queries.jobs.enqueue([job])
            call.job_ids = (row.id,)
        look = None if state.look_at is None else max(0.0, (state.look_at - state.now).total_seconds())
        state.refresh()
        if stored.schedule.overlap != "allow":
            state.live_jobs.append(row.id)
        fired = TickRecord(name, tick, "fired", None, row.id, who(by))
        yield self._queries.record_ticks([fired], [(state, look)])
        codec, made = self._app.queries.jobs.codec, as_job(job, row)
        return self._runner.emit(made if codec is None else open_job(codec, made))

    arun = run.twin

    @verb
    def delete(self, name: str) -> Steps[None]:
        """Delete a schedule; the record of its ticks stays. A schedule that the code declares comes back with the next
        scheduler: pause it, or take it out of the code."""
        if not (yield self._queries.delete(_schedule_name(name))):
            raise _unknown(name)

    adelete = delete.twin

    @verb
    def get(self, name: str) -> Steps[ScheduleStatus]:
        """Return a schedule. Raises UnknownSchedule."""
        return (yield from self._found(name))

    aget = get.twin

    @verb
    def list(self, *, after: str | None = None, limit: int = 1000) -> Steps[Sequence[ScheduleStatus]]:
        """Return schedules by name, those `after` one of them."""
        after = None if after is None else _schedule_name(after)
        found: Sequence[ScheduleStatus] = yield self._queries.list(None, after, check_limit(limit))
        return found

    alist = list.twin  # noqa: A003  # the verb above

    @verb
    def ticks(self, name: str, *, limit: int = 20, before: datetime | None = None) -> Steps[Sequence[TickRecord]]:
        """Return the newest ticks of a schedule and what became of each, newest first."""
        before = None if before is None else check_moment("before", before)
        ticks: Sequence[TickRecord] = yield self._queries.list_ticks(_schedule_name(name), check_limit(limit), before)
        return ticks

    aticks = ticks.twin

    @verb
    def definition(self, name: str) -> Steps[Schedule]:
        """Return the definition of a schedule. Raises UnknownSchedule; InvalidPlan for one that cannot be read."""
        return (yield from self._read(name)).schedule

    adefinition = definition.twin

    @verb
    def preview(self, name: str, count: int = 5) -> Steps[Sequence[Upcoming]]:
        """Return the next ticks of a schedule's plan, in plain words."""
        stored = yield from self._read(name)
        return preview(stored.schedule, stored.schedule.plan.timezone, stored.state.now, count)

    apreview = preview.twin

    @property
    def _queries(self) -> ScheduleQueries:
        return self._app.queries.schedules

    def _found(self, name: str) -> Steps[ScheduleStatus]:
        found = yield self._queries.list(_schedule_name(name))
        if not found:
            raise _unknown(name)
        status: ScheduleStatus = found[0]
        return status

    def _locked(self, name: str) -> Steps[StoredSchedule]:
        return _usable(name, (yield self._queries.lock(_schedule_name(name))))

    def _read(self, name: str) -> Steps[StoredSchedule]:
        found = yield self._queries.read([_schedule_name(name)])
        return _usable(name, found[0] if found else None)

    def _redefine(self, stored: FoundSchedule | None, new: Schedule, now: datetime, by: str | None) -> Steps[None]:
        """Replace the definition of a locked schedule. If the plan changes, its overdue ticks are settled first; if it
        stays, they go on to wait for a scheduler."""
        known = stored if isinstance(stored, StoredSchedule) else None
        tick, same = new.after(now), known is not None and _ticks_alike(known.schedule, new)
        if known is not None and same:
            known.state.refresh()
            tick = known.state.next_tick
        elif known is not None:
            ticks = settle_ticks(known.state, now, f"passed before {by or 'the code'} changed the plan")
            yield self._queries.record_ticks(ticks)
        if tick is None and not same:
            raise InvalidPlan(f"schedule {new.name!r} would have no tick after now: delete it, or give a later moment")
        yield self._queries.redefine(new, tick, None if by is None else now, by, keep_gap=same)


class Schedules(ScheduleClient):
    """The schedules of an app: a mapping of those that its code declares, and the verbs on all of them. Each verb runs
    on an own connection and commits at once; `using(conn)` has the same verbs in the caller's transaction."""

    def __init__(self, app: AppParts) -> None:
        super().__init__(app)
        self._declared: dict[str, Schedule] = {}

    def on(self, app: AppParts) -> "Schedules":
        """Return the same schedules, with verbs that use another view of the app."""
        there = Schedules(app)
        there._declared = self._declared
        return there

    def using(self, conn: object, /) -> ScheduleClient:
        """Bind a connection to borrow. It is never committed and never closed."""
        return ScheduleClient(self._app, conn)

    def declare(
        self,
        name: str,
        task: str | HasName,
        plan: GivenPlan | None = None,
        /,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Declare a schedule in code, as `@app.schedule(…)` does. Schedulers write it as a row.

        A schedule that the code no longer declares is disabled when the last scheduler that declares it has ended.
        """
        schedule = build(self._app, name, _task_name(task), plan, options)
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
        """Return the schedules that the code declares."""
        return tuple(self._declared.values())


def enqueue_ticks(app: AppParts, jobs: Sequence[NewJob]) -> Query[list[InsertedJob]]:
    """Insert the jobs of ticks."""
    return app.queries.jobs.enqueue([of_tick(app, job) for job in jobs])


def _end_of_pause(until: datetime | timedelta | float, now: datetime) -> datetime:
    """Return when a pause ends that begins now, by the database's clock. Raises InvalidOption, InvalidPlan."""
    if not isinstance(until, datetime):
        return now + timedelta(seconds=check_duration("until", until, LIMIT))
    end = check_moment("until", until)
    if end <= now:
        raise InvalidOption(f"until={until} has passed: give a later moment")
    return end


def _ticks_alike(one: Schedule, other: Schedule) -> bool:
    return (one.plan, one.start, one.end) == (other.plan, other.start, other.end)


def _task_name(task: str | HasName) -> str:
    """Return the name of a task that is given as such or by its name."""
    return check_name("task", task if isinstance(task, str) else getattr(task, "name", None))


def _schedule_name(name: object) -> str:
    """Return a name that may be asked for, though no schedule may have it."""
    if not isinstance(name, str) or "\0" in name:
        raise InvalidOption(f"schedule name {name!r:.300} cannot be used: give a text")
    return name


def _usable(name: str, found: FoundSchedule | None) -> StoredSchedule:
    """Return the schedule that was found. Raises UnknownSchedule, or InvalidPlan if it cannot be read."""
    if found is None:
        raise _unknown(name)
    if isinstance(found, UnreadableSchedule):
        raise InvalidPlan(f"schedule {name!r}: {found.reason} (create(…, replace=True) replaces it)")
    return found


def _unknown(name: str) -> UnknownSchedule:
    return UnknownSchedule(f"no schedule is called {name!r}: never committed, or deleted")
