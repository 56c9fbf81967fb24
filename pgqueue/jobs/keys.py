"""On which terms a job is let in: the key that admits one, and until when it must have started."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pgqueue.errors import InvalidOption
from pgqueue.timing import LIMIT, Seconds, check_optional_duration

OnConflict: TypeAlias = Literal["skip", "replace", "raise"]
While: TypeAlias = Literal["pending", "live"]


WINDOW = 86400.0  # seconds that an idempotency key stays taken
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Unique:
    """At most one job of a task for each value of some arguments; those named in `by`, or all.

    `while_="pending"`: among the jobs that no worker has taken yet. `"live"`: also among those that run or wait for
    another attempt. With a `window` (seconds or timedelta) also not more than one enqueued per window, whatever became
    of it. What a call does that meets another job: `"skip"` returns that job, `"replace"` gives it the arguments, run
    time and options of the call if it has not started, `"raise"` raises DuplicateJob.
    """

    by: str | Sequence[str] | None = None
    while_: While = "pending"
    window: Seconds | None = None
    on_conflict: OnConflict = "skip"

    def __post_init__(self) -> None:
        by = (self.by,) if isinstance(self.by, str) else self.by
        if by is not None and not (isinstance(by, (list, tuple)) and by and all(isinstance(n, str) for n in by)):
            raise InvalidOption(f"Unique(by={self.by!r}) cannot be used: name arguments, or leave it out for all")
        if self.while_ not in get_args(While):
            raise InvalidOption(f"Unique(while_={self.while_!r}) cannot be used: give pending or live")
        check_on_conflict(self.on_conflict)
        object.__setattr__(self, "by", by if by is None else tuple(by))
        object.__setattr__(self, "window", check_optional_duration("window", self.window, LIMIT))


class Conditions(NamedTuple):
    """The terms of one job. `key` is its idempotency key, `unique` its unique key; one of them at most. `expires` is a
    time, or seconds from the enqueueing on.

    `hash` stands for a key that stays taken for `window` seconds, whatever becomes of the job; `alone` for one that
    only a job that is there can hold. `by_args`: the key is made of all arguments, so it cannot come with others.
    """

    key: str | None = None
    unique: str | None = None
    hash: str | None = None
    window: float | None = None
    alone: str | None = None
    live: bool = False
    on_conflict: OnConflict = "skip"
    expires: datetime | float | None = None
    by_args: bool = False


def digest(args: Mapping[str, Any], task: str = "") -> str:
    """Return a hash of arguments, and of a task: the same for the same ones, in whatever order they were written."""
    return _sha256(f"{task}\n{_canonical(args)}".encode())


def key_hashes(task: str, keys: Iterable[str]) -> list[str]:
    """Return what idempotency keys of a task are in the table of keys: 128 bits each, as hexadecimal digits."""
    begun, hashes = sha256(f"{task}\n".encode()), []
    for key in keys:
        hashed = begun.copy()
        hashed.update(key.encode())
        hashes.append(hashed.hexdigest()[:32])
    return hashes


def check_on_conflict(given: object) -> None:
    """Refuse what is no way to meet another job."""
    if given not in get_args(OnConflict):
        raise InvalidOption(f"on_conflict={given!r} cannot be used: give skip, replace or raise")


def _canonical(value: object) -> str:
    return _CANONICAL.encode(value)


def _sha256(text: bytes) -> str:
    return sha256(text).hexdigest()


_UNIQUE = Unique()
