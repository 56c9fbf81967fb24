"""Versions of a task: what changed in its arguments, and jobs that were enqueued before or after the change."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pgqueue.errors import InvalidTask
from pgqueue.tasks.storable import UNTYPED_SERIALIZER

# The header that says which version of its task a job was enqueued for. Absent: the first, so that a task which never
# changed costs nothing. Names that begin with $ are pgqueue's own.
VERSION = "$version"
MAX_VERSION = 1000
Upcaster: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]]


class NewerVersion(Exception):
    """A job comes from a release whose version of the task is not known here."""


def check_versions(task: str, version: object, upcasters: Mapping[int, Upcaster]) -> None:
    """Refuse versions that leave a step out: each upcaster makes of the arguments of one version those of the next."""
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
            f"task {task}: version={version} with upcasters for {steps or 'none'} leaves older jobs without a way: "
            f"give one for each version up to {version - 1}, without a gap"
        )


def version_of(headers: str | None) -> int:
    """Return the version of its task that a job was enqueued for, from its headers as JSON text.

    Raises ValueError for one that somebody has written by hand, and that is none.
    """
    if headers is None or VERSION not in headers:
        return 1
    version = json.loads(headers).get(VERSION, 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"the header {VERSION} is {version!r:.100}, and a version is a whole number from 1 on")
    return version


def with_version(headers: str | None, version: int) -> str | None:
    """Return headers that tell the version, if it is not the first."""
    if version == 1:
        return headers
    return json.dumps((json.loads(headers) if headers else {}) | {VERSION: version})


def upcast(text: str, headers: str | None, version: int, upcasters: Mapping[int, Upcaster]) -> str:
    """Return a job's arguments, as JSON text, in the form of `version`.

    Raises NewerVersion for a job of a later one, and whatever an upcaster raises.
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
