"""The duty that ends a worker which runs what is due and then stops."""

from collections.abc import Callable, Sequence
from typing import Protocol

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.timing import monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

LOOK_SECONDS = 0.02
ROUNDS = 2  # the first may let jobs be due that a claim of the second finds


class Claims(Protocol):
    """The duty that claims."""

    succeeded_at: float

    def seek(self) -> None: ...
    def expects_jobs(self) -> bool: ...


class Burst(Duty):
    """Stops the worker when it has no job and its duties have found none that it could run now.

    In each round `claims` looks for jobs everywhere, and so do `others`, which let jobs be due: each must succeed after
    the round has begun. Outcomes are written by then, so the claims see the jobs that those brought back or let go on.
    While the database is out of reach no duty succeeds, and the worker stays.
    """

    name = "burst"
    uses_database = False

    def __init__(
        self,
        link: Link,
        core: WorkerCore,
        signals: WorkerSignals,
        claims: Claims,
        others: Sequence[Duty],
        end: Callable[[], None],
    ) -> None:
        super().__init__(link)
        self._slots = core.slots
        self._signals = signals
        self._claims, self._others = claims, others
        self._end = end
        self._began: float | None = None
        self._ended_before = 0
        self._rounds = 0

    async def step(self) -> float:
        """Begin a round, or see whether it has found nothing."""
        if self._signals.held_jobs():
            self._began, self._rounds = None, 0
        elif self._began is None:
            self._began, self._ended_before = monotonic(), self._slots.ended
            for duty in self._others:
                duty.wake()
            self._claims.seek()
        elif not self._claims.expects_jobs() and self._all_looked_since(self._began):
            self._began = None
            self._rounds = self._rounds + 1 if self._slots.ended == self._ended_before else 0
            if self._rounds == ROUNDS:
                self._end()
                return 3600.0
        return LOOK_SECONDS

    def _all_looked_since(self, began: float) -> bool:
        return self._claims.succeeded_at > began and all(duty.succeeded_at > began for duty in self._others)
