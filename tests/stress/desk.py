"""The desk of an operator: verbs on jobs in any state, while workers run them and faults hit."""

import random
from collections.abc import Callable

import pgqueue

from .journal import Journal

REFUSED = (pgqueue.WrongState, pgqueue.UnknownJob, pgqueue.InvalidArguments)


class Desk:
    """Retries, promotes and edits jobs, and notes for which of them it has asked that they run again."""

    def __init__(self, app: pgqueue.App, rng: random.Random, journal: Journal) -> None:
        self._app = app
        self._rng = rng
        self._journal = journal
        self._verbs: list[Callable[[int], object]] = [self._retry, self._retry, self._promote, self._edit]

    def act(self, job: int) -> None:
        """Do one thing to a job. What cannot be done in its state is refused; raises what a lost database raises."""
        try:
            self._rng.choice(self._verbs)(job)
        except REFUSED:
            return

    def _retry(self, job: int) -> None:
        self._journal.write(type="retry", job=job)
        self._app.retry(job)

    def _promote(self, job: int) -> None:
        self._app.promote(job, priority=self._rng.randint(0, 3))

    def _edit(self, job: int) -> None:
        self._app.edit(job, priority=self._rng.randint(0, 3), delay=self._rng.uniform(0, 0.5))
