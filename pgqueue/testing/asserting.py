"""What a test expects of a job, how a job differs from that, and the text of a failed assertion."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from pydantic import ValidationError

from pgqueue.client.task import Task
from pgqueue.jobs.job import Job, JobState
from pgqueue.tasks.spec import TaskSpec
from pgqueue.timing import seconds

SHOWN = 20


def name_of(task: "Task[..., Any] | str | None") -> str | None:
    """Return the name of a task given itself or by name."""
    return task.name if isinstance(task, Task) else task


class ExpectedOptions(TypedDict, total=False):
    """What an assertion may ask of a job beside its task and arguments; see `Jobs.assert_enqueued`."""

    queue: str | None
    priority: int | None
    run_at: datetime | None
    delay: float | timedelta | None
    max_attempts: int | None
    tags: Sequence[str] | None
    state: str
    within: float | timedelta


@dataclass(frozen=True, slots=True)
class ExpectedJob:
    """What a job must be like. None accepts any value. Of `args` only the names that are given count."""

    task: str | None = None
    args: Mapping[str, Any] | None = None
    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: float | timedelta | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None
    state: str = "waiting"
    within: float | timedelta = 1.0

    def is_candidate(self, job: Job) -> bool:
        """Whether the job is in the expected state."""
        match self.state:
            case "any":
                return True
            case "waiting":
                return job.state in (JobState.PENDING, JobState.BLOCKED)
            case _:
                return self.state in (job.state, job.phase)

    def differences(self, job: Job, spec: TaskSpec | None) -> list[str]:
        """Return how a job differs, in words; nothing if it does not."""
        found = [] if self.task in (None, job.task) else [f"task: wanted {self.task}"]
        found += _differing_args(self.args or {}, job, spec)
        for name in ("queue", "priority", "max_attempts"):
            wanted = getattr(self, name)
            if wanted is not None and wanted != getattr(job, name):
                found.append(f"{name}: wanted {wanted!r}, is {getattr(job, name)!r}")
        if self.tags is not None and set(self.tags) != set(job.tags):
            found.append(f"tags: wanted {list(self.tags)}, is {list(job.tags)}")
        return found + self._differing_time(job)

    def _differing_time(self, job: Job) -> list[str]:
        wanted = self.run_at
        if self.delay is not None:
            # In UTC: in the zone of the database an hour more or less would pass when its clocks change.
            wanted = job.created_at.astimezone(UTC) + timedelta(seconds=seconds(self.delay))
        if wanted is None or abs((job.run_at - wanted).total_seconds()) <= seconds(self.within):
            return []
        off, shown = (job.run_at - wanted).total_seconds(), wanted.astimezone(job.run_at.tzinfo)
        return [f"run_at: wanted {shown:%Y-%m-%d %H:%M:%S %Z}, is {abs(off):g} s {'later' if off > 0 else 'earlier'}"]

    def __str__(self) -> str:
        names = ("queue", "priority", "run_at", "delay", "max_attempts", "tags")
        options = [f"{name}={value}" for name in names if (value := getattr(self, name)) is not None]
        args = "" if self.args is None else f" {_short(dict(self.args))}"
        return " ".join([f"{self.task or 'any task'}{args}", *options])


def _differing_args(args: Mapping[str, Any], job: Job, spec: TaskSpec | None) -> list[str]:
    """Compare as the Python values that the task receives, or as the JSON that is stored: either may be equal."""
    try:
        decoded = spec.coder.decode(json.dumps(job.args)) if spec else {}
    except ValidationError:
        decoded = {}
    found = []
    for name, wanted in args.items():
        if name not in job.args:
            found.append(f"{name}: wanted {wanted!r}, is not given")
        elif not (wanted == job.args[name] or (name in decoded and wanted == decoded[name])):
            found.append(f"{name}: wanted {wanted!r}, is {decoded.get(name, job.args[name])!r}")
    return found


def _short(args: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name}={value!r}" for name, value in args.items())
    return f"({text if len(text) <= 300 else text[:300] + ' …'})"


def one_line(job: Job) -> str:
    """Return a job in one line."""
    tags = f" tags={list(job.tags)}" if job.tags else ""
    return (
        f"#{job.id} {job.task}{_short(job.args)} {job.phase} queue={job.queue} priority={job.priority} "
        f"run_at={job.run_at:%Y-%m-%d %H:%M:%S}{tags}"
    )


def listing(jobs: Sequence[Job], expected: ExpectedJob, specs: Mapping[str, TaskSpec | None]) -> str:
    """Return the jobs that a test enqueued, those of the expected task first, each with how it differs."""
    if not jobs:
        return "  nothing was enqueued in this test"
    lines: list[str] = []
    for job in sorted(jobs, key=lambda job: job.task != expected.task)[:SHOWN]:
        lines.append(f"  {one_line(job)}")
        if not expected.is_candidate(job):
            lines.append(f"      state: wanted {expected.state}, is {job.state}")
        if expected.task in (None, job.task):
            lines += [f"      {difference}" for difference in expected.differences(job, specs.get(job.task))]
    more = len(jobs) - SHOWN
    return "\n".join([*lines, f"  … and {more} more"] if more > 0 else lines)
