"""What a job can be enqueued with, and a task or an app be given: each setting is checked where it is said."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from pgqueue.config import check_queue
from pgqueue.errors import InvalidOption
from pgqueue.tasks.rules import Rules, check_starts_in_time
from pgqueue.tasks.versions import MAX_VERSION
from pgqueue.timing import DELAY, check_duration, seconds

ErrorTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one call; None means that the task's own setting, or the app's, stands."""

    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: float | timedelta | None = None
    max_attempts: int | None = None
    tags: Sequence[str] | None = None
    rules: Rules | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        if self.queue is not None:
            check_queue(self.queue)
        check_priority(self.priority)
        check_max_attempts(self.max_attempts)
        check_tags(self.tags)
        check_run_at(self.run_at)
        if self.delay is not None:
            check_duration("delay", self.delay, DELAY)
        if self.version is not None:
            check_count("version", self.version, MAX_VERSION)
        if self.run_at is not None and self.delay is not None:
            raise InvalidOption("run_at and delay exclude each other: give one of them")
        if self.rules is not None:
            delay = None if self.delay is None else seconds(self.delay)
            check_starts_in_time(self.run_at, delay, self.rules.expires)


def check_run_at(run_at: object) -> None:
    """Refuse a time that is naive, or further away than Postgres and Python both can say."""
    if run_at is None:
        return
    if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
        raise InvalidOption(f"run_at={run_at!r} has no timezone: give an aware datetime, or delay=…")
    if not 1900 <= run_at.year <= 9000:
        raise InvalidOption(f"run_at={run_at!r} cannot be used: give a year from 1900 to 9000")


def check_priority(priority: object) -> None:
    """Refuse a priority that is no whole number from -100 to 100."""
    if priority is not None and (type(priority) is not int or not -100 <= priority <= 100):
        raise InvalidOption(f"priority={priority!r} cannot be used: give -100 to 100 (higher runs sooner)")


def check_max_attempts(max_attempts: object) -> None:
    """Refuse a number of attempts that is no whole number from 1 on."""
    if max_attempts is not None and (type(max_attempts) is not int or not 1 <= max_attempts <= 1_000_000):
        raise InvalidOption(f"max_attempts={max_attempts!r} cannot be used: give 1 (no retries) to 1000000")


def check_count(option: str, count: object, most: int = 1_000_000) -> int:
    """Return a whole number from 1 on; refuse anything else."""
    if type(count) is not int or not 1 <= count <= most:
        raise InvalidOption(f"{option}={count!r} cannot be used: give 1 to {most}")
    return count


def check_depth(depth: object) -> int:
    """Return a number of jobs that may wait; refuse what is no whole number from 1 on."""
    if type(depth) is not int or not 1 <= depth <= 10**9:
        raise InvalidOption(f"max_depth={depth!r} cannot be used: give 1 to 1000000000")
    return depth


def check_result_bytes(most: object) -> int:
    """Return how large a result may be; refuse anything but 1 to 64 MiB."""
    if type(most) is not int or not 1 <= most <= 64 * 1024 * 1024:
        raise InvalidOption(f"max_result_bytes={most!r} cannot be used: give 1 to {64 * 1024 * 1024}")
    return most


def check_store_result(stored: object, result_ttl: object) -> bool:
    """Return whether results are stored; refuse what is no bool, and a time to live for what is not stored."""
    if type(stored) is not bool:
        raise InvalidOption(f"store_result={stored!r} cannot be used: give True or False")
    if not stored and result_ttl is not None:
        raise InvalidOption("store_result=False and result_ttl exclude each other: nothing is stored that could expire")
    return stored


def check_retention(kept: object) -> int | None:
    """Return what is to be kept of a job that has succeeded: all (None) or nothing (0)."""
    if kept is not None and (type(kept) is not int or kept != 0):
        raise InvalidOption(f"retention={kept!r} cannot be used: give 0 (keep nothing of what succeeds) or None")
    return kept


def check_error_types(option: str, given: ErrorTypes) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple; refuse anything else."""
    types = given if isinstance(given, tuple) else (given,)
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOption(f"{option}={kind!r} cannot be used: give exception classes")
    return types


def check_tags(tags: Sequence[str] | None) -> None:
    """Refuse tags that are not short texts."""
    if tags is None:
        return
    if not isinstance(tags, (list, tuple)) or len(tags) > 100:
        raise InvalidOption(f"tags={tags!r} cannot be used: give a list of at most 100 texts")
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= 200 or not tag.isprintable():
            raise InvalidOption(f"tag {tag!r} cannot be used: give 1 to 200 printable characters")
