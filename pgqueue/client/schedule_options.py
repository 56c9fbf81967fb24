"""The options of a schedule, and the Schedule that is made of them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from pgqueue.client.app_parts import AppParts
from pgqueue.client.inserting import new_job
from pgqueue.client.settings import CallSettings
from pgqueue.config import check_name
from pgqueue.errors import InvalidPlan
from pgqueue.schedules.plan import At, Plan, as_plan, check_moment
from pgqueue.schedules.schedule import Schedule
from pgqueue.tasks.headers import headers_text
from pgqueue.tasks.options import JobOptions, check_names
from pgqueue.tasks.storable import encode_unregistered
from pgqueue.timing import seconds

GivenPlan: TypeAlias = str | float | timedelta | datetime | Plan
Duration: TypeAlias = float | timedelta


class ScheduleOptions(JobOptions, total=False):
    """The options of a schedule, beside its plan. Durations are seconds or timedeltas, times aware datetimes.

    `at`: the one moment to fire, instead of a plan. `start`, `end`: no tick before, none after; an interval counts from
    `start`. `jitter`: each job waits up to so long, by name and tick. `expires`: how long after its tick a job is of
    use, or "next": until the next tick. `misfire`: which of the ticks fire that passed before a scheduler looked:
    "once" (the newest), "skip" (the newest, if it is at most 60 s late), "all(limit)". `grace`: a tick later than this
    never fires. `overlap`: what becomes of a tick while `max_running` (1) jobs of earlier ticks are not finished:
    "allow", "skip", "queue" (it waits for them), "cancel_running". The other options are those of the jobs, as in
    `using`.
    """

    at: datetime | None
    timezone: str
    start: datetime | None
    end: datetime | None
    jitter: Duration
    args: Mapping[str, Any] | None
    headers: Mapping[str, str] | None
    delay: Duration | None
    expires: Duration | str | None
    misfire: str
    grace: Duration | None
    overlap: str
    max_running: int | None


def build(app: AppParts, name: str, task: str, plan: GivenPlan | None, options: ScheduleOptions) -> Schedule:
    """Return the schedule of a name, a task, a plan and options. Raises InvalidPlan, InvalidOption, InvalidArguments,
    and TypeError for an unknown option."""
    check_names(options, ScheduleOptions.__annotations__, "a schedule")
    start = options.get("start")
    when = _one_plan(plan, options.get("at"))
    checked = as_plan(when, options.get("timezone", "UTC"), start and check_moment("start", start))
    names = ("queue", "priority", "delay", "max_attempts", "tags")
    settings = {name: options.get(name) for name in names} | {"headers": headers_text(options.get("headers"))}
    asked = CallSettings(**settings)  # type: ignore[arg-type]  # each as it is typed
    text = _encoded(app, task, options.get("args") or {})
    job = replace(new_job(text, asked, app.tasks.get(task), task, app), flow=None, by=None)  # made when a tick fires
    return Schedule(check_name("schedule", name), checked, job, **_timing(options))


def _encoded(app: AppParts, task: str, args: Mapping[str, Any]) -> str:
    spec = app.tasks.get(task)
    return spec.coder.encode((), args) if spec else encode_unregistered(task, args, app.max_args_bytes)


def _one_plan(plan: GivenPlan | None, at: datetime | None) -> GivenPlan:
    if at is not None and plan is None:
        return At(at)
    if plan is None or at is not None:
        raise InvalidPlan("give one plan: a cron expression, an interval, an RRule, or at=…")
    return plan


def _timing(options: ScheduleOptions) -> dict[str, Any]:
    """Return the options of the schedule itself, not of its jobs. Durations become seconds; Schedule checks them."""
    names = ("start", "end", "jitter", "expires", "misfire", "grace", "overlap", "max_running")
    given = {name: options[name] for name in names if name in options}  # type: ignore[literal-required]
    for name in ("jitter", "expires", "grace"):
        if isinstance(given.get(name), timedelta):
            given[name] = seconds(given[name])
    return given


def edited(app: AppParts, old: Schedule, plan: GivenPlan | None, o: ScheduleOptions) -> Schedule:
    """Return a schedule changed by a plan and options. Raises as `build` does."""
    check_names(o, ScheduleOptions.__annotations__, "a schedule")
    asked = CallSettings(o.get("queue"), o.get("priority"), None, o.get("delay"), o.get("max_attempts"), o.get("tags"))
    known = app.tasks.get(old.job.task)
    if known is not None:
        known.check_priority(asked.priority)
    job: dict[str, Any] = {
        name: getattr(asked, name) for name in ("queue", "priority", "max_attempts") if o.get(name) is not None
    }
    if "delay" in o:
        job["delay"] = None if asked.delay is None else seconds(asked.delay)
    if "tags" in o:
        job["tags"] = tuple(asked.tags or ())
    if "headers" in o:
        job["headers"] = headers_text(o["headers"])
    if "args" in o:
        spec = known
        job["args"] = _encoded(app, old.job.task, o["args"] or {})
        job |= {"version": spec.version, "max_crashes": spec.max_crashes} if spec else {"version": 1}
        job["dead_letter_task"] = app.tasks.dead_letter_target(spec, app.queue) if spec else None
    timing, when, at = _timing(o), old.plan, o.get("at")
    if plan is not None or at is not None:
        zone, start = o.get("timezone", old.plan.timezone), o.get("start", old.start)
        when = as_plan(_one_plan(plan, at), zone, start and check_moment("start", start))
    elif "timezone" in o:
        when = replace(old.plan, timezone=o["timezone"])
    if timing.get("overlap") == "allow":
        timing["max_running"] = None
    return replace(old, plan=when, job=replace(old.job, **job), **timing)
