"""Tasks and schedules: what the code declares, and how it does."""

import json
from datetime import UTC, datetime
from typing import Any

from pgqueue.dashboard import charts, forms
from pgqueue.dashboard.calendar import calendar_of
from pgqueue.dashboard.filters import read_end
from pgqueue.dashboard.look import Look, Page
from pgqueue.dashboard.redaction import without_secrets
from pgqueue.errors import InvalidOption, PgqueueError, UnknownTask
from pgqueue.jobs.job_filter import JobFilter
from pgqueue.jobs.retry import policy_in_words
from pgqueue.queries.dashboard import TaskHealth
from pgqueue.queries.schedules.read import ScheduleStatus
from pgqueue.schedules.in_words import span_in_words
from pgqueue.schedules.plan import Span
from pgqueue.tasks.spec import TaskSpec

MOST_TASKS = 300
RUNS = 20
TICKS, UPCOMING = 30, 10
CATCH_UP = ("skip", "once", "all(10)")


def tasks(look: Look, _: str) -> Page:
    """List tasks: those that ran within the hour, and those of this app."""
    health = look.ask_if_quick(look.queries.dashboard.tasks(MOST_TASKS))
    known = {each.task: each for each in health or ()}
    idle = sorted(spec.name for spec in look.app.tasks if spec.name not in known)
    pauses = look.ask(look.queries.pauses.list())
    values = {
        "tasks": [*known.values(), *(_idle(name) for name in idle)],
        "parked": look.ask(look.queries.metrics.parked()),
        "quick": health is not None,
        "most_seconds": max((each.run_seconds for each in known.values()), default=0.0) or 1.0,
        "paused": {pause.name: pause for pause in pauses if pause.kind == "task"},
        "specs": {spec.name: spec for spec in look.app.tasks},
    }
    return Page("tasks.html", "Tasks", values)


def _idle(name: str) -> TaskHealth:
    return TaskHealth(name, 0, 0, 0, 0, None, 0.0, None, None, None, None)


def task(look: Look, name: str) -> Page:
    """Show one task: its settings as they are, its numbers, its newest jobs."""
    spec = look.app.tasks.get(name)
    health = look.ask_if_quick(look.queries.dashboard.tasks(1, name))
    jobs = look.ask(look.queries.jobs.list(JobFilter(task=name), None, RUNS))
    if spec is None and not health and not jobs:
        raise UnknownTask(f"task {name}: this app does not know it, and none of the newest jobs is one of it")
    span = charts.chosen(look.request.asked("span"), "3h")
    activity = look.activity(charts.SPANS[span], task=name)
    pauses = look.ask(look.queries.pauses.list())
    values = {
        "name": name,
        "spec": spec,
        "settings": [] if spec is None else settings_of(spec),
        "schema": None if spec is None else json.dumps(spec.json_schema(), indent=2, ensure_ascii=False),
        "health": health[0] if health else _idle(name),
        **charts.pair_of(activity, span),
        "jobs": [(job, look.redaction.shown(job, "args", job.args)) for job in jobs],
        "paused": next((pause for pause in pauses if pause.kind == "task" and pause.name == name), None),
    }
    return Page("task.html", f"Task {name}", values)


def settings_of(spec: TaskSpec) -> list[tuple[str, str, bool]]:
    """Return the settings of a task in words, each with whether the task itself gives it."""
    shown: dict[str, Any] = {
        "queue": spec.queue,
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "retry": policy_in_words(spec.retry),
        "timeout": _seconds(spec.timeout),
        "soft_timeout": _seconds(spec.soft_timeout),
        "isolation": "event loop" if spec.is_async else spec.isolation,
        "max_crashes": spec.max_crashes,
        "version": spec.version,
        "tags": ", ".join(spec.tags) or None,
        "dead_letter_task": spec.dead_letter_task,
        "result_ttl": _seconds(spec.result_ttl),
        "aliases": ", ".join(spec.aliases) or None,
    }
    return [(name, str(value), name in spec.given) for name, value in shown.items() if value is not None]


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:g} s"


def enqueue(look: Look, name: str) -> Page:
    """Show the form that enqueues one job of a task."""
    fields = forms.fields_of(look.app.tasks, name, {})
    values = {
        "name": name, "fields": fields, "sent": look.request.form,
        "known": look.app.tasks.get(name) is not None,
    }  # fmt: skip
    return Page("enqueue.html", f"Enqueue {name}", values)


def schedules(look: Look, _: str) -> Page:
    """List schedules with their next and last ticks."""
    found = look.ask(look.queries.schedules.list(None, None, 1000))
    ticking = sorted((each for each in found if each.state == "active" and each.next_tick), key=_next_tick)
    stored = look.ask(look.queries.schedules.read([each.name for each in ticking]))
    return Page("schedules.html", "Schedules", {"schedules": found, "calendar": calendar_of(stored)})


def _next_tick(schedule: ScheduleStatus) -> datetime:
    return schedule.next_tick or datetime.max.replace(tzinfo=UTC)


def schedule(look: Look, name: str) -> Page:
    """Show one schedule: its plan in words, its next ticks, what became of the last ones."""
    client = look.app.schedules.using(look.conn)
    status = client.get(name)
    values: dict[str, Any] = {
        "schedule": status, "ticks": client.ticks(name, limit=TICKS), "plan": None, "upcoming": (), "args": None
    }  # fmt: skip
    try:
        found = client.definition(name)
    except PgqueueError:
        return Page("schedule.html", f"Schedule {name}", values)  # the status names the error
    plan = span_in_words(Span(found.plan, found.start, found.end))
    values |= {
        "plan": plan,
        "upcoming": client.preview(name, UPCOMING),
        "args": without_secrets(json.loads(found.job.args)),
    }
    return Page("schedule.html", f"Schedule {name}", values)


def pause(look: Look, name: str) -> Page:
    """Show which ticks a pause of a schedule would pass by, and ask."""
    client, sent = look.app.schedules.using(look.conn), look.request.form
    status = client.get(name)
    until, catch_up = (sent.get(field) or look.request.asked(field) for field in ("until", "catch_up"))
    values: dict[str, Any] = {
        "schedule": status, "until": until or "", "catch_up": catch_up or CATCH_UP[0], "policies": CATCH_UP,
        "passed": None, "unknown": None, "refused": look.wrong,
    }  # fmt: skip
    if look.wrong is None:
        try:
            values["passed"] = client.preview_pause(name, until=read_end("until", until), limit=UPCOMING)
        except InvalidOption as error:
            return Page("pause.html", f"Pause schedule {name}", values | {"refused": str(error)}, 400)
        except PgqueueError as error:  # a plan that cannot be read: it can be paused all the same
            values["unknown"] = str(error)
    return Page("pause.html", f"Pause schedule {name}", values)
