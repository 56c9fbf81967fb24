"""What charts of long spans have read, kept for a tenth of a step: nobody sees the difference, and a week is many
rows."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pgqueue.queries.dashboard import Span, Step
from pgqueue.timing import monotonic

SHARE = 0.1
SHORTEST = 300.0  # seconds of a step: what has shorter ones is read each time
MOST = 100  # readings of one process


class Key(NamedTuple):
    """What was read: a span of everything, of a queue, or of a task."""

    span: Span
    queue: str | None
    task: str | None


class KeptActivity:
    """The readings that this process keeps for everybody who looks."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._readings: dict[Key, tuple[float, Sequence[Step]]] = {}

    def get(self, key: Key) -> Sequence[Step] | None:
        """Return a reading that is fresh enough; None if there is none."""
        with self._lock:
            found = self._readings.get(key)
        return None if found is None or self._clock() - found[0] > SHARE * key.span.step else found[1]

    def keep(self, key: Key, steps: Sequence[Step]) -> None:
        """Keep a reading, of a long span."""
        if key.span.step < SHORTEST:
            return
        with self._lock:
            self._readings.pop(key, None)
            self._readings[key] = self._clock(), steps
            if len(self._readings) > MOST:
                del self._readings[next(iter(self._readings))]
