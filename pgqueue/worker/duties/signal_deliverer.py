"""The duties of what jobs wait for: one lets them go on when it has come, one deletes what nobody needs."""

import random

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries.steps import Swept
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.duties.awaited_topics import AwaitedTopics
from pgqueue.worker.signals import WorkerSignals

BATCH = 500
LOOK_SECONDS = 1.0  # between two looks without a notification
HELD_SECONDS = 0.1  # until a job is tried again whose row another transaction holds
SWEEP_SECONDS = 30.0
SWEPT = 200  # jobs with steps, signals, events and undos that one sweep looks at


class SignalDeliverer(Duty):
    """Takes new signals, events and ends of called jobs, and lets the jobs go on that wait for them; ends called jobs
    whose caller has failed or was cancelled. Every worker has it; row locks keep them apart. A notification wakes it;
    without one it looks each second."""

    name = "signals"

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._queries = core.queries
        self._signals = signals
        self._topics = AwaitedTopics(link, core.queries)

    async def step(self) -> float:
        """Deliver a batch; ask for the next step at once if more may be left."""
        found = await self.link.run(self._queries.signals.deliver(BATCH))
        if found.due:
            self._signals.jobs_woken()
        if found.unwanted and await self._call_off():
            return 0.0
        if found.incomplete and await self._topics.step():
            return 0.0
        if found.letters == BATCH or found.due == BATCH:
            return 0.0
        return HELD_SECONDS if found.again else LOOK_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311

    async def _call_off(self) -> bool:
        """End a batch of called jobs whose caller has ended; return whether any was."""
        ends = await self.link.run(self._queries.calls.call_off(BATCH))
        if ends.ready:
            self._signals.job_committed()
        if ends.doomed or ends.unsettled:
            self._signals.workflow_moved()
        return bool(ends.moved)


class StepSweeper(Duty):
    """Deletes steps of jobs that retention has dropped, and signals, events and undos that are over.

    It looks at a batch of jobs with steps each half minute, and begins anew after the last one.
    """

    name = "sweep steps"

    def __init__(self, link: Link, core: WorkerCore) -> None:
        super().__init__(link)
        self._queries = core.queries.steps
        self._after = Swept()

    async def step(self) -> float:
        """Sweep a batch."""
        self._after = await self.link.run(self._queries.sweep(self._after, SWEPT))
        return SWEEP_SECONDS * random.uniform(0.5, 1.0)  # noqa: S311
