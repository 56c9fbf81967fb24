"""Readings that pages share: one is kept for a while, and nobody waits long for the next one while there is an old one.

Statements over a backlog are quick while dead rows are removed. Beside an old snapshot, and over a week of activity,
they take a good part of a second: they run beside the pages then, and pages show what was read before.
"""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.dashboard")
T = TypeVar("T")
L = TypeVar("L", bound="Reading[Any] | None")
PATIENCE = 0.15  # seconds that a page waits in all for readings that it can do without
LONGEST = 10.0  # seconds that one waits for the reading of another one, before one reads oneself
MOST = 200  # kinds of readings of one process
AT_ONCE = 2  # readings beside pages at once: they share the app's connections with what the app itself does
MOST_WAITING = 50  # readings that wait for their turn


class Patience:
    """The seconds that a page has left to wait for readings that it can do without: PATIENCE for all together, so that
    a page with three of them comes as soon as one with a single one."""

    def __init__(self) -> None:
        self._left = PATIENCE

    def wait(self, soon: Callable[[float], T], at_most: float | None = None) -> T:
        """Return what `soon` gives when it may wait for what is left, or `at_most` so long; the time is used up."""
        began = monotonic()
        try:
            return soon(self._left if at_most is None else min(at_most, self._left))
        finally:
            self._left = max(self._left - (monotonic() - began), 0.0)


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was read; when it was begun, by the clock of this process, and for how many seconds that took."""

    value: T
    at: float
    took: float


@dataclass(frozen=True, slots=True)
class Unread:
    """A reading that failed: why in general, and when it was begun."""

    why: str
    at: float


class Guarded:
    """Has a lock. A process that was forked has neither the threads nor the locks of its parent: it begins anew."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def _locked(self) -> threading.Lock:
        """Return the lock of this process."""
        if self._pid != os.getpid():
            self._begin()
        return self._lock


class ReadingThreads(Guarded):
    """The threads that read beside pages: only so many at once, and only so many readings wait for one of them."""

    def _begin(self) -> None:
        super()._begin()
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, read: Callable[[], None]) -> bool:
        """Let a thread call `read`, which raises nothing, as soon as one is free; False if too many wait for that."""
        with self._locked():
            if self._running >= AT_ONCE:
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(read)
                    return True
                return False
            self._running += 1
        try:
            threading.Thread(target=self._work, args=(read,), name="pgqueue dashboard", daemon=True).start()
        except RuntimeError:  # this process has as many threads as it may have, or is about to end
            with self._locked():
                self._running -= 1
            return False
        return True

    def _work(self, first: Callable[[], None]) -> None:
        read: Callable[[], None] | None = first
        while read is not None:
            read()
            with self._locked():
                read = self._waiting.popleft() if self._waiting else None
                if read is None:
                    self._running -= 1


class Reader(Guarded, Generic[T]):
    """Reads one thing for everybody. A reading serves all for `fresh` seconds; until it is `old`, whoever comes gets it
    rather than to wait for more than a moment. `beside`: how a thread beside the pages reads it, if in another way."""

    def __init__(
        self,
        read: Callable[[], T],
        fresh: float,
        old: float,
        clock: Callable[[], float] = monotonic,
        *,
        beside: Callable[[], T] | None = None,
        threads: ReadingThreads | None = None,
    ) -> None:
        self._read = read
        self._beside = beside or read
        self._fresh = fresh
        self._old = old
        self._clock = clock
        self._threads = threads or ReadingThreads()
        self._last: Reading[T] | None = None
        self._failed: Unread | None = None
        super().__init__()

    def _begin(self) -> None:
        super()._begin()
        self._next: Future[Reading[T]] | None = None

    def now(self) -> T:
        """Return what is read, at the least what is not old. Raises what reading raises."""
        last, coming, is_ours = self._look()
        if last is not None:
            return self._sooner(last, coming, is_ours, PATIENCE).value
        if is_ours:
            self._run(coming, self._read)
        try:
            return coming.result(LONGEST).value
        except TimeoutError:
            if coming.done():
                raise
            return self._read()

    def soon(self, patience: float | None = None) -> Reading[T] | Unread | None:
        """Return the reading, at the least one that is not old; None if there is none within a moment, or within
        `patience` seconds. What failed is not tried anew while a reading would be fresh."""
        with self._locked():
            failed = self._failed
        if failed is not None and self._clock() - failed.at < self._fresh:
            return failed
        found = self._look()
        try:
            return self._sooner(*found, PATIENCE if patience is None else patience)
        except Exception as error:  # noqa: BLE001 - the thread has logged it
            return Unread(_why(error), self._clock())

    @property
    def is_reading(self) -> bool:
        """Whether a reading is under way, or waits for its turn."""
        with self._locked():
            return self._next is not None

    def forget(self) -> None:
        """Read anew next time: somebody has changed something, and wants to see it."""
        with self._locked():
            self._last = self._next = self._failed = None

    def _look(self) -> tuple[Reading[T] | None, Future[Reading[T]], bool]:
        """Return the last reading unless it is old; the next one, which is the same while it is fresh; and whether it
        is the caller who is to begin it."""
        with self._locked():
            age = self._fresh + self._old if self._last is None else self._clock() - self._last.at
            if self._last is not None and age < self._fresh:
                done: Future[Reading[T]] = Future()
                done.set_result(self._last)
                return self._last, done, False
            is_ours = self._next is None
            if self._next is None:
                self._next = Future()
            return self._last if age < self._old else None, self._next, is_ours

    def _sooner(self, last: L, coming: "Future[Reading[T]]", is_ours: bool, patience: float) -> "Reading[T] | L":
        """Let a thread make the next reading; return it if it comes within so many seconds, and else the last one.
        Where the last one took longer than a moment, the next one will, too."""
        if is_ours and not self._threads.take(lambda: self._run(coming, self._beside, is_beside=True)):
            with self._locked():
                if self._next is coming:
                    self._next = None
            return last
        try:
            return coming.result(0 if isinstance(last, Reading) and last.took > PATIENCE else patience)
        except TimeoutError:
            if coming.done() and coming.exception() is not None:
                raise
            return last

    def _run(self, coming: "Future[Reading[T]]", read: Callable[[], T], *, is_beside: bool = False) -> None:
        began = self._clock()
        try:
            reading = Reading(read(), began, self._clock() - began)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the reading gets it
            if is_beside:
                log.warning("a reading of the dashboard failed: %s", _why(error))
            self._end(coming, None, Unread(_why(error), began))
            coming.set_exception(error)
            return
        self._end(coming, reading, None)
        coming.set_result(reading)

    def _end(self, coming: "Future[Reading[T]]", reading: Reading[T] | None, failed: Unread | None) -> None:
        """Keep a reading, or that it failed: then there is none. One that was begun before `forget` is not kept."""
        with self._locked():
            if self._next is coming:
                self._next, self._last, self._failed = None, reading, failed


def _why(error: BaseException) -> str:
    """Say why a reading failed, without anything of a job."""
    return brief(error) if isinstance(error, DATABASE_ERRORS) else type(error).__name__


class Readers(Guarded):
    """The readers of a dashboard, by what they read; those that were asked last stay. They share
    the threads that read beside pages."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = ReadingThreads()
        self._readers: dict[Hashable, Reader[Any]] = {}

    def of(self, key: Hashable, make: Callable[[], Reader[T]]) -> Reader[T]:
        """Return the reader of a thing, made when it is first asked for. One that reads stays, so that nothing is read
        twice at once."""
        with self._locked():
            found = self._readers.pop(key, None)
            self._readers[key] = found = make() if found is None else found
            if len(self._readers) > MOST:
                idle = next((each for each, reader in self._readers.items() if not reader.is_reading), key)
                if idle != key:
                    del self._readers[idle]
            return found
