"""Durable steps as values: what a task has recorded, what it asks to be recorded, and what it waits for."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from pgqueue.jobs.job import ClaimedJob

Kind: TypeAlias = Literal["value", "sleep", "signal", "event", "call"]
# The header of a job that has something to undo, or to call off, if it ends otherwise than by success; and the one of a
# job that undoes a step.
UNDO, UNDOES = "$undo", "$undoes"
UNDO_MARK = '"$undo'  # in the headers of each job that can be undone, or undoes
_UNDO, _UNDOES = f'{UNDO_MARK}"', f'{UNDO_MARK}es"'


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step to record. `value` is JSON text, as it is stored. `seconds`: after which a sleep ends or a wait times out.
    `waits` and `key`: the signal or event that a wait is for. `undo`: the call that undoes the step, as JSON text."""

    name: str
    kind: Kind
    value: str | None = None
    seconds: float | None = None
    waits: str | None = None
    key: str | None = None
    undo: str | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step as it is recorded. `left`: seconds until a sleep ends or a wait times out, by the database's clock when it
    was read; None for never. `done`: False for a wait that goes on. `fresh`: False where the record was there already.
    """

    name: str
    kind: Kind
    value: str | None
    done: bool
    timed_out: bool
    wake_at: datetime | None
    left: float | None
    has_undo: bool
    version: int
    number: int
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Wakening:
    """When a job that is asleep goes on by itself: `at` by the database's clock, None for never. `left`: in how many
    seconds that is, about."""

    at: datetime | None
    left: float | None


def can_be_undone(job: ClaimedJob) -> bool:
    """Whether a recorded step of the job can be undone, or a call of it called off."""
    return job.headers is not None and _UNDO in job.headers


def undoes(job: ClaimedJob) -> bool:
    """Whether the job undoes a step of another one."""
    return job.headers is not None and _UNDOES in job.headers
