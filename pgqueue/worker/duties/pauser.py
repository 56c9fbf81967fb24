"""The duty that sets jobs of paused tasks aside and brings them back. Every worker has it; row locks part them."""

import logging
import random

from pgqueue.db.link import Link
from pgqueue.printable import one_line
from pgqueue.process.duty import Duty
from pgqueue.queries.pauses import TaskPause
from pgqueue.timing import in_words, monotonic
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
BATCH = 1000
WINDOW = 4000  # jobs at the front of each lane among which it looks: twice what a claim takes
INTERVAL = 10.0  # between two looks while nothing is paused; a notification makes one at once
PAUSED_SECONDS = 1.0  # the same while something is
REST_SHARE = 20  # it rests for so many times as long as it has worked


class Pauser(Duty):
    """Takes due jobs of paused tasks out of the way of claims, and puts them there again when a pause is over.

    Claims pass over jobs of paused tasks by themselves, so a late step only makes them walk further, and lets workers
    of older releases, which know no pause of a task, take jobs. What is to be brought back is found by the rows: any
    worker goes on where another one died.
    """

    name = "pauses"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries.pauses
        self._slots = core.slots
        self._signals = signals
        self._paused: frozenset[str] = frozenset()  # at the last look

    async def step(self) -> float:
        """Move a batch each way; ask for the next step at once if more may be left."""
        tasks = await self.link.run(self._queries.tasks())
        paused = [task for task in tasks if task.is_paused]
        over = [task.task for task in tasks if not task.is_paused]
        self._say(paused)
        began = monotonic()
        back = await self.link.run(self._queries.bring_back(over, BATCH)) if over else 0
        if back:
            self._signals.jobs_brought_back()
        aside = 0
        if paused:
            aside = await self.link.run(self._queries.set_aside(list(self._slots.queues), BATCH, WINDOW))
        if BATCH in (back, aside):
            return 0.0
        if not tasks:
            return INTERVAL * random.uniform(0.5, 1.0)  # noqa: S311
        rest = max(PAUSED_SECONDS, REST_SHARE * (monotonic() - began))
        return max(min([rest, *(task.seconds for task in paused if task.seconds is not None)]), 0.0)

    def _say(self, paused: list[TaskPause]) -> None:
        """Log which tasks are paused now, and which are no longer."""
        names = frozenset(task.task for task in paused)
        for task in paused:
            if task.task not in self._paused:
                length = "" if task.seconds is None else f" for {in_words(task.seconds)}"
                why = "" if task.why is None else f": {task.why}"
                log.info("%s", one_line(f"task {task.task} is paused by {task.by or 'somebody'}{length}{why}"))
        for name in sorted(self._paused - names):
            log.info("%s", one_line(f"task {name} is not paused any more"))
        self._paused = names
