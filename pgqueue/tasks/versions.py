"""Versions of a task's arguments, and upcasters, which bring the arguments of older jobs to a newer version."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pgqueue.errors import InvalidTask
from pgqueue.jobs.flow import FLOW, Flow, header_text
from pgqueue.jobs.job import MAX_CRASHES, NewJob
from pgqueue.jobs.step import UNDO, UNDOES
from pgqueue.tasks.inputs import INPUTS
from pgqueue.tasks.storable import UNTYPED_SERIALIZER

# The header with the version of its task for which a job was enqueued. It is absent for the first version, so that a
# task that never changed costs nothing. Names that begin with $ are pgqueue's own.
VERSION = "$version"
# The header with the limit of crashes of a job's task, for workers that do not know the task. It is absent for the
# default.
CRASH_LIMIT = "$max_crashes"
MAX_CRASH_LIMIT = 1_000_000
# The header with what the job of a dead-letter task gets, for workers that do not know the task; and the one of that
# job, with the id of the dead letter.
DEAD_LETTER_TASK = "$dead_letter_task"
DEAD_LETTER = "$dead_letter"
# The header with the notes that people put on a dead letter.
NOTES = "$notes"
# The header with the name that a workflow gives to one of its nodes.
NODE = "$node"
# The header of a job that an event has made: the id of the event.
EVENT = "$event"
# The header of a job that a running task has enqueued: the id of the job whose task it was.
BY = "$by"
OWN = frozenset({
    VERSION, CRASH_LIMIT, DEAD_LETTER_TASK, DEAD_LETTER, NOTES, NODE, EVENT, BY, FLOW, INPUTS, UNDO, UNDOES
})  # fmt: skip
MAX_VERSION = 1000
# A job that waits for a worker which knows a parameter has this label instead of its version: "1+gift". The index of
# parked jobs has it, as it has the version.
_LABEL = re.compile(r"[1-9][0-9]{0,3}\+[^+]+(?:\+[^+]+)*")
Upcaster: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]


class NewerVersion(Exception):
    """A job was enqueued for a newer version of its task than this process has."""


class UnknownParameters(Exception):
    """A job has arguments for parameters that its task does not have here. `label`: what it waits for."""

    def __init__(self, label: str) -> None:
        names = label.split("+")[1:]
        super().__init__(f"{'parameters' if len(names) > 1 else 'parameter'} not known here: {', '.join(names)}")
        self.label = label


def check_versions(task: str, version: object, upcasters: Mapping[int, Upcaster]) -> None:
    """Refuse upcasters with a gap: each turns the arguments of one version into those of the next."""
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise InvalidTask(f"task {task}: version={version!r} cannot be used: give 1 to {MAX_VERSION}")
    if not isinstance(upcasters, Mapping):
        raise InvalidTask(f"task {task}: upcasters={upcasters!r:.200} cannot be used: map versions to functions")
    for step, upcaster in upcasters.items():
        if type(step) is not int or step < 1 or not callable(upcaster):
            raise InvalidTask(f"task {task}: upcasters[{step!r}] cannot be used: map versions from 1 to functions")
    steps = sorted(upcasters)
    if steps != list(range(version - len(steps), version)) or (version > 1 and not steps):
        raise InvalidTask(
            f"task {task}: version={version} with upcasters for {steps or 'none'} leaves jobs without an upcaster: "
            f"give one for each version up to {version - 1}, without a gap"
        )


def version_of(headers: str | None) -> int:
    """Return the version of its task for which a job was enqueued, from its headers as JSON text."""
    return label_parts(headers)[0]


def label_parts(headers: str | None) -> tuple[int, list[str]]:
    """Return the version of its task for which a job was enqueued, and the names that some worker did not know.

    Raises ValueError for a header, written by SQL, that is no version.
    """
    if headers is None or VERSION not in headers:
        return 1, []
    version, names = json.loads(headers).get(VERSION, 1), list[str]()
    if isinstance(version, str) and _LABEL.fullmatch(version):
        version, names = parts_of(version)
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        shown = repr(version)[:100] if not isinstance(version, int) else "a number too large"
        raise ValueError(f"the header {VERSION} is {shown}, and a version is a whole number from 1 to {MAX_VERSION}")
    return version, names


def parts_of(label: str) -> tuple[int, list[str]]:
    """Return the version in the label of a parked job, and the names that its worker must know. 0: no version."""
    version, *names = label.split("+")
    return int(version) if version.isascii() and version.isdigit() and len(version) <= 4 else 0, names


def with_own(headers: str | None, job: NewJob) -> str | None:
    """Return the headers with our own added: the version unless it is the first, the limit of crashes if it is not the
    default, the dead-letter task, the job that enqueued it and the flow if there are any."""
    own: dict[str, Any] = {VERSION: job.version} if job.version > 1 else {}
    if job.max_crashes != MAX_CRASHES:
        own[CRASH_LIMIT] = job.max_crashes
    if job.dead_letter_task is not None:
        own[DEAD_LETTER_TASK] = dict(job.dead_letter_task)
    if job.by is not None:
        own[BY] = job.by
    text = json.dumps((json.loads(headers) if headers else {}) | own) if own else headers
    return text if job.flow is None else _with_flow(text, job.flow)


def with_maker(headers: str | None, by: int | None) -> str | None:
    """Return headers with the job whose task runs, if one does, for the jobs of the events that it publishes."""
    return headers if by is None else json.dumps((json.loads(headers) if headers else {}) | {BY: by})


def _with_flow(headers: str | None, flow: Flow) -> str:
    """Return headers with the flow added, which no caller can have given."""
    return f"{{{header_text(flow)}}}" if headers in (None, "{}") else f"{headers[:-1]}, {header_text(flow)}}}"


def upcast(text: str, headers: str | None, version: int, upcasters: Mapping[int, Upcaster]) -> str:
    """Return a job's arguments, JSON text, brought to `version`.

    Raises NewerVersion for a job of a later version, and whatever an upcaster raises.
    """
    stored = version_of(headers)
    if stored > version:
        raise NewerVersion(f"version {stored}")
    if stored == version:
        return text
    arguments: dict[str, Any] = json.loads(text)
    for step in range(stored, version):
        if step not in upcasters:
            raise ValueError(f"the job was enqueued for version {stored}, and the oldest upcaster is {min(upcasters)}")
        arguments = dict(upcasters[step](arguments))
    return UNTYPED_SERIALIZER.to_json(arguments).decode()
