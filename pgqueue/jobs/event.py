"""Published events as values: new ones, those that tasks get, and the results of publishing and replaying."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Event:
    """An event that was published: its topic, its data, and the key that the publisher gave.

    A task with `on=…` gets it in a parameter that is annotated so. `id` and `at`, its number and time, are the
    database's; in one that a test makes they are 0 and None.
    """

    topic: str
    data: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    id: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to publish. `data` is a JSON object as text."""

    topic: str
    data: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A published event, with the ids of the jobs of its subscribers.

    Both exist for others if and only if the transaction commits.
    """

    id: int
    topic: str
    at: datetime
    jobs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result of a replay: it has made so many `jobs`.

    `open`: so many transactions had published before the replay, and had not ended when it gave up waiting for them.
    Replay again when they have ended.
    """

    jobs: int
    open: int = 0


class EventJob(NamedTuple):
    """A job that an event has made."""

    id: int
    task: str
    queue: str
