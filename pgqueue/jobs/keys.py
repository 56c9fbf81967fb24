"""The conditions under which a job is inserted: the key that it must get, and when it expires."""

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

    `while_="pending"`: among the jobs that no worker has claimed yet. `"live"`: also among those that run or wait for
    another attempt. With a `window` (seconds or timedelta) also not more than one enqueued per window, whatever became
    of it. `on_conflict` says what a call does if another job has the key: `"skip"` returns that job, `"replace"` gives
    it the arguments, run time and options of the call if it has not started, `"raise"` raises DuplicateJob.
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
    """The conditions of one job. `key` is its idempotency key, `unique` its unique key; one of them at most. `expires`
    is a time, or seconds after the enqueueing.

    `key_hash` stands for a key that stays taken for `window` seconds, whatever becomes of the job; `unique_hash` for
    one that is taken only while a job holds it: until that is claimed, or with `while_live` until it ends. `by_args`:
    the key is made of all arguments, so it cannot come back with others.
    """

    key: str | None = None
    unique: str | None = None
    key_hash: str | None = None
    window: float | None = None
    unique_hash: str | None = None
    while_live: bool = False
    on_conflict: OnConflict = "skip"
    expires: datetime | float | None = None
    by_args: bool = False


def canonical(arguments: Mapping[str, Any]) -> str:
    """Return arguments as JSON that is the same in whatever order they were passed."""
    return _CANONICAL.encode(arguments)


def hash_arguments(arguments: Mapping[str, Any], task: str = "") -> str:
    """Return a hash of a task's arguments: the same for equal ones, in whatever order they were passed."""
    return _sha256(f"{task}\n{canonical(arguments)}")


def key_hashes(task: str, keys: Iterable[str]) -> list[str]:
    """Return idempotency keys of a task as idempotency_key stores them: 128 bits each, as hexadecimal digits."""
    begun, hashes = sha256(f"{task}\n".encode()), []
    for key in keys:
        hashed = begun.copy()
        hashed.update(key.encode())
        hashes.append(hashed.hexdigest()[:32])
    return hashes


def unique_hash(task: str, key: str) -> str:
    """Return a unique key of a task as job_live stores it."""
    return _sha256(f"{task}\n{key}")


def window_hash(task: str, key: str) -> str:
    """Return a unique key of a task as idempotency_key stores it, for its window.

    No text has a NUL in it, so this is no idempotency key's hash; and no name of a task has a line break in it.
    """
    return _sha256(f"\x00{task}\n{key}")[:32]


def check_on_conflict(given: object) -> None:
    """Refuse anything but a way to treat a conflict with another job."""
    if given not in get_args(OnConflict):
        raise InvalidOption(f"on_conflict={given!r} cannot be used: give skip, replace or raise")


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()
