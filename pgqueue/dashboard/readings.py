"""Readings that pages share: one is kept for a while, and nobody waits long for the next one while there is an old one.

Statements over a backlog are quick while dead rows are removed. Beside an old snapshot, and over a week of activity,
they take a good part of a second: they run in a thread of their own then, and pages show what was read before.
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pgqueue.timing import monotonic

T = TypeVar("T")
L = TypeVar("L", bound="Reading[Any] | None")
PATIENCE = 0.15  # seconds that a page waits for a reading that it can do without
MOST = 200  # kinds of readings of one process


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was read; when it was begun, by the clock of this process, and for how many seconds that took."""

    value: T
    at: float
    took: float


class Reader(Generic[T]):
    """Reads one thing for everybody. A reading serves all for `fresh` seconds; until it is `old`, whoever comes gets it
    rather than to wait for more than a moment."""

    def __init__(self, read: Callable[[], T], fresh: float, old: float, clock: Callable[[], float] = monotonic) -> None:
        self._read = read
        self._fresh = fresh
        self._old = old
        self._clock = clock
        self._lock = threading.Lock()
        self._last: Reading[T] | None = None
        self._next: Future[Reading[T]] | None = None

    def now(self) -> T:
        """Return what is read, at the least what is not old. Raises what reading raises."""
        last, coming, is_ours = self._look()
        if last is not None:
            return self._sooner(last, coming, is_ours).value
        if is_ours:
            self._run(coming)
        return coming.result().value

    def soon(self) -> Reading[T] | None:
        """Return the reading, at the least one that is not old; None if there is none within a moment. Raises what
        reading raises."""
        return self._sooner(*self._look())

    def forget(self) -> None:
        """Read anew next time: somebody has changed something, and wants to see it."""
        with self._lock:
            self._last = self._next = None

    def _look(self) -> tuple[Reading[T] | None, Future[Reading[T]], bool]:
        """Return the last reading unless it is old; the next one, which is the same while it is fresh; and whether it
        is the caller who is to begin it."""
        with self._lock:
            age = self._fresh + self._old if self._last is None else self._clock() - self._last.at
            if self._last is not None and age < self._fresh:
                done: Future[Reading[T]] = Future()
                done.set_result(self._last)
                return self._last, done, False
            is_ours = self._next is None
            if self._next is None:
                self._next = Future()
            return self._last if age < self._old else None, self._next, is_ours

    def _sooner(self, last: L, coming: "Future[Reading[T]]", is_ours: bool) -> "Reading[T] | L":
        """Let a thread make the next reading; return it if it comes within a moment, and else the last one. Where the
        last one took longer than that, the next one will, too."""
        if is_ours:
            threading.Thread(target=self._run, args=(coming,), name="pgqueue dashboard", daemon=True).start()
        try:
            return coming.result(0 if isinstance(last, Reading) and last.took > PATIENCE else PATIENCE)
        except TimeoutError:
            return last

    def _run(self, coming: "Future[Reading[T]]") -> None:
        began = self._clock()
        try:
            reading = Reading(self._read(), began, self._clock() - began)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the reading gets it
            self._end(coming, None)
            coming.set_exception(error)
            return
        self._end(coming, reading)
        coming.set_result(reading)

    def _end(self, coming: "Future[Reading[T]]", reading: Reading[T] | None) -> None:
        """Keep a reading; after a failure there is none. One that was begun before `forget` is not kept."""
        with self._lock:
            if self._next is coming:
                self._next, self._last = None, reading


class Readers:
    """The readers of a dashboard, by what they read; those that were asked last stay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[Hashable, Reader[Any]] = {}

    def of(self, key: Hashable, make: Callable[[], Reader[T]]) -> Reader[T]:
        """Return the reader of a thing, made when it is first asked for."""
        with self._lock:
            found = self._readers.pop(key, None)
            self._readers[key] = found = make() if found is None else found
            if len(self._readers) > MOST:
                del self._readers[next(iter(self._readers))]
            return found
