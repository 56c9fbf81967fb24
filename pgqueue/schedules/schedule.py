"""A schedule as a value: a plan, the job that each tick becomes, and the policies for late and overlapping ticks."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from pgqueue.config import check_name, check_queue
from pgqueue.errors import InvalidOption, InvalidPlan
from pgqueue.jobs.job import MAX_CRASHES, NewJob
from pgqueue.jobs.keys import Conditions
from pgqueue.schedules.cron import Cron
from pgqueue.schedules.plan import At, Every, Plan, RRule, Span
from pgqueue.tasks.headers import headers_text
from pgqueue.tasks.versions import MAX_CRASH_LIMIT, MAX_VERSION
from pgqueue.timing import JITTER, SPAN, check_duration, check_optional_duration

OVERLAPS = ("allow", "skip", "queue", "cancel_running")
SKIP_GRACE = 60.0  # seconds: how late a tick with misfire="skip" still fires, unless the schedule says otherwise
MOST_CAUGHT_UP = 1000
_PLANS = ("cron", "every_seconds", "at", "rrule")
_ALL = re.compile(r"all(?:\(([1-9][0-9]{0,3})\))?")
# The columns of pgqueue.schedule that a definition fills.
COLUMNS = (
    "task", "args", "cron", "every_seconds", "at", "rrule", "anchor", "timezone", "starts_at", "ends_at",
    "jitter_seconds", "queue", "priority", "max_attempts", "tags", "options", "misfire", "grace_seconds", "overlap",
    "max_running",
)  # fmt: skip


def check_policy(option: str, policy: object) -> str:
    """Return a policy for ticks that have passed: `skip`, `once` or `all(limit)`. Raises InvalidOption otherwise."""
    found = _ALL.fullmatch(policy) if isinstance(policy, str) else None
    if found is not None and int(found[1] or 0) <= MOST_CAUGHT_UP:
        return f"all({found[1] or 100})"
    if policy not in ("skip", "once"):
        raise InvalidOption(
            f"{option}={policy!r} cannot be used: give 'skip', 'once' or 'all(limit)', limit 1 to {MOST_CAUGHT_UP}"
        )
    return str(policy)


def most_fires(policy: str) -> int:
    """Return how many of the ticks that have passed may fire under a policy."""
    return 1 if policy in ("skip", "once") else int(policy[4:-1])


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule: its name, its plan, the job that each tick becomes. Durations are seconds.

    `jitter`: each job is delayed by up to so much. `expires`: a job not started so long after its tick is cancelled;
    `next`: at the following tick. `misfire` decides which ticks fire that passed while no scheduler ran, and `grace`
    how late a tick may fire; `overlap` decides what a tick does while `max_running` jobs of earlier ticks are
    unfinished.
    """

    name: str
    plan: Plan
    job: NewJob
    start: datetime | None = None
    end: datetime | None = None
    jitter: float = 0.0
    expires: float | str | None = None
    misfire: str = "once"
    grace: float | None = None
    overlap: str = "allow"
    max_running: int | None = None

    def __post_init__(self) -> None:
        span = Span(self.plan, self.start, self.end)
        settings: dict[str, Any] = {
            "start": span.start,
            "end": span.end,
            "jitter": check_duration("jitter", self.jitter, JITTER),
            "misfire": check_policy("misfire", self.misfire),
            "grace": check_optional_duration("grace", self.grace, SPAN),
        }
        if self.expires != "next":
            settings["expires"] = check_optional_duration("expires", self.expires, SPAN)
        if self.overlap not in OVERLAPS:
            raise InvalidOption(f"overlap={self.overlap!r} cannot be used: give one of {', '.join(OVERLAPS)}")
        if self.max_running is None and self.overlap != "allow":
            settings["max_running"] = 1
        elif self.max_running is not None and self.overlap == "allow":
            raise InvalidOption("max_running goes with overlap='skip', 'queue' or 'cancel_running': give one of them")
        elif self.max_running is not None and (type(self.max_running) is not int or not 1 <= self.max_running <= 1000):
            raise InvalidOption(f"max_running={self.max_running!r} cannot be used: give 1 to 1000")
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def after(self, moment: datetime) -> datetime | None:
        """Return the first tick after `moment`; None after the last one."""
        return Span(self.plan, self.start, self.end).after(moment)

    def is_too_late(self, late: timedelta) -> bool:
        """Whether a tick is too late to fire."""
        grace = SKIP_GRACE if self.grace is None and self.misfire == "skip" else self.grace
        return grace is not None and late.total_seconds() > grace

    def expires_at(self, tick: datetime) -> datetime | None:
        """Return when the job of a tick expires; None if it does not."""
        if isinstance(self.expires, str):
            return self.after(tick)
        return None if self.expires is None else tick + timedelta(seconds=self.expires)

    def job_of(self, tick: datetime) -> NewJob:
        """Return the job that a tick becomes. Its share of the jitter depends on the name and the tick alone."""
        spread = self.jitter * crc32(f"{self.name} {tick.isoformat()}".encode()) / 2**32
        wait = (self.job.delay or 0.0) + spread
        run_at = tick + timedelta(seconds=wait) if wait else self.job.run_at
        expires_at = self.expires_at(tick)
        conditions = self.job.conditions if expires_at is None else Conditions(expires=expires_at)
        headers = self._headers_of(tick, expires_at)
        return replace(self.job, delay=None, run_at=run_at, conditions=conditions, headers=headers)

    def _headers_of(self, tick: datetime, expires_at: datetime | None) -> str:
        """Return the headers of a tick's job: those given, the schedule's name, the tick, and when the job expires."""
        headers = json.loads(self.job.headers) if self.job.headers else {}
        headers |= {"schedule": self.name, "tick": tick.isoformat()}
        if expires_at is not None:
            headers["expires_at"] = expires_at.isoformat()
        return json.dumps(headers)

    def columns(self) -> dict[str, Any]:
        """Return the row of its definition as JSON has it; without `args`, which are text already."""
        plan, job = self.plan, self.job
        options: dict[str, Any] = {
            "delay": job.delay,
            "expires": self.expires,
            "history": None if job.history else False,
            "version": job.version if job.version > 1 else None,
            "max_crashes": job.max_crashes if job.max_crashes != MAX_CRASHES else None,
            "headers": None if job.headers is None else json.loads(job.headers),
            "dead_letter_task": job.dead_letter_task and dict(job.dead_letter_task),
        }
        return {
            "task": job.task,
            "cron": plan.expression if isinstance(plan, Cron) else None,
            "every_seconds": plan.seconds if isinstance(plan, Every) else None,
            "at": plan.moment.isoformat() if isinstance(plan, At) else None,
            "rrule": plan.rule if isinstance(plan, RRule) else None,
            "anchor": plan.anchor.isoformat() if isinstance(plan, Every | RRule) and plan.anchor else None,
            "timezone": plan.timezone,
            "starts_at": self.start and self.start.isoformat(),
            "ends_at": self.end and self.end.isoformat(),
            "jitter_seconds": self.jitter,
            "queue": job.queue,
            "priority": job.priority,
            "max_attempts": job.max_attempts,
            "tags": list(job.tags),
            "options": {name: value for name, value in options.items() if value is not None},
            "misfire": self.misfire,
            "grace_seconds": self.grace,
            "overlap": self.overlap,
            "max_running": self.max_running,
        }

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any], args: str) -> "Schedule":
        """Return the schedule of a row. Raises InvalidPlan or InvalidOption for a row that SQL made unusable."""
        options, tags = row["options"], row["tags"]
        if not isinstance(options, dict):
            raise InvalidOption(f"options {options!r:.100} cannot be used: give an object")
        if not isinstance(tags, list) or not all(isinstance(tag, str) and tag.isprintable() for tag in tags):
            raise InvalidOption(f"tags {tags!r:.100} cannot be used: give a list of texts")
        job = NewJob(
            check_name("task", row["task"]),
            args,
            check_queue(row["queue"]),
            row["priority"],
            row["max_attempts"],
            delay=check_optional_duration("delay", options.get("delay"), SPAN),
            tags=tuple(tags),
            history=options.get("history") is not False,
            version=_whole("version", options.get("version", 1), MAX_VERSION),
            max_crashes=_whole("max_crashes", options.get("max_crashes", MAX_CRASHES), MAX_CRASH_LIMIT),
            headers=headers_text(options.get("headers")),
            dead_letter_task=_object(options.get("dead_letter_task")),
        )
        return cls(
            name,
            _plan(row),
            job,
            _moment(row["starts_at"]),
            _moment(row["ends_at"]),
            row["jitter_seconds"],
            options.get("expires"),
            row["misfire"],
            row["grace_seconds"],
            row["overlap"],
            row["max_running"],
        )


def changed(row: Mapping[str, Any], args: str, changes: Mapping[str, Any]) -> Schedule:
    """Return the schedule of a row after a change of some of its columns; a new plan replaces the old one.

    Raises InvalidPlan or InvalidOption for values that cannot be used.
    """
    kept = dict(row)
    if any(changes.get(plan) is not None for plan in _PLANS):
        kept |= dict.fromkeys(_PLANS)
    if changes.get("overlap") == "allow":
        kept["max_running"] = None
    return Schedule.of(row["name"], kept | dict(changes), json.dumps(changes["args"]) if "args" in changes else args)


def _object(given: object) -> dict[str, Any] | None:
    return given if isinstance(given, dict) else None


def _whole(option: str, given: object, most: int) -> int:
    if type(given) is not int or not 1 <= given <= most:
        raise InvalidOption(f"{option} {given!r:.100} cannot be used: give 1 to {most}")
    return given


def _plan(row: Mapping[str, Any]) -> Plan:
    timezone, anchor = row["timezone"], _moment(row["anchor"])
    if row["cron"] is not None:
        return Cron(row["cron"], timezone)
    if row["every_seconds"] is not None:
        return Every(row["every_seconds"], timezone, anchor)
    if row["at"] is not None:
        return At(_moment(row["at"]), timezone)  # type: ignore[arg-type]  # it is not None
    if row["rrule"] is not None and anchor is not None:
        return RRule(row["rrule"], anchor, timezone)
    raise InvalidPlan("no plan: give cron, every_seconds, at, or rrule with anchor")


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise InvalidPlan(f"{text!r} is no moment: give an ISO 8601 date and time with an offset") from None
