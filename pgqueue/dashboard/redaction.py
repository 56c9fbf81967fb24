"""What is not shown of a job's data: values under names such as `password`, and what the app's own function says."""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from pgqueue.errors import InvalidOption
from pgqueue.jobs.job import Job
from pgqueue.tasks.sealing import sealed_by

HIDDEN = "••••••"
_SECRET = re.compile(r"pass(word|wd|phrase)|secret|token|authorization|cookie|api.?key|private.?key|credential", re.I)
DEEPEST = 30

# Called with a job, the path of a value, such as ("args", "card", "number"), and the value; returns what is shown.
Redact: TypeAlias = Callable[[Job, tuple[str, ...], Any], Any]


def is_secret(name: str) -> bool:
    """Whether values under this name are never shown."""
    return _SECRET.search(name) is not None


def without_secrets(value: Any) -> Any:
    """Return data that belongs to no job, such as the arguments of a schedule, without what is never shown."""
    if isinstance(value, Mapping) and sealed_by(value) is None:
        return {str(name): HIDDEN if is_secret(str(name)) else without_secrets(each) for name, each in value.items()}
    return sealed_by(value) or ([without_secrets(each) for each in value] if isinstance(value, list) else value)


class _NotSaid(AttributeError):
    """A filter does not say what somebody wants to know of its jobs."""


class _Fitting:
    """Stands for whichever job fits a filter: it has the task and the queue that the filter names, and nothing else.
    `unknown`: what somebody wanted to know of it beside them."""

    def __init__(self, task: str | None, queue: str | None) -> None:
        self.unknown: str | None = None
        if task is not None and "*" not in task:
            self.task = task
        if queue is not None:
            self.queue = queue

    def __getattr__(self, name: str) -> Any:
        self.unknown = name
        raise _NotSaid(f"a filter does not say the {name} of its jobs")


class Redaction:
    """Hides values of jobs before they are shown."""

    def __init__(self, own: Redact | None = None, *, reveals: bool = False) -> None:
        self._own = None if reveals else own
        self.reveals = reveals

    def revealing(self) -> "Redaction":
        """Return what hides nothing but what is sealed, for somebody who may see it and has asked."""
        return Redaction(reveals=True)

    def shown(self, job: Job, part: str, value: Any) -> Any:
        """Return what is shown of a part of a job: its `args`, `headers`, `result` or `progress`."""
        return self._shown(job, (part,), value)

    def check_filter(self, args: Mapping[str, Any], task: str | None, queue: str | None) -> None:
        """Raise InvalidOption for a filter by values that are hidden in a job which fits: that it fits would tell them.

        The app's function is asked about the values of the filter. What it decides by more of a job than the filter
        names counts as hidden.
        """
        for name, value in args.items():
            job = _Fitting(task, queue)
            try:
                is_shown = self._shown(cast(Job, job), ("args", name), value) == value
            except _NotSaid:
                is_shown = False
            if job.unknown in ("task", "queue"):
                raise InvalidOption(f"what is hidden of argument {name!r:.100} differs by {job.unknown}: name one, too")
            if job.unknown is not None or not is_shown:
                raise InvalidOption(f"argument {name!r:.100} is hidden, so no filter can have it: leave it out")

    def _shown(self, job: Job, path: tuple[str, ...], value: Any) -> Any:
        if len(path) > 1 and is_secret(path[-1]) and not self.reveals:
            return HIDDEN
        if (sealed := sealed_by(value)) is not None:
            return sealed
        if len(path) > DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return {str(name): self._shown(job, (*path, str(name)), each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._shown(job, path, each) for each in value]
        return value if self._own is None else self._own(job, path, value)
