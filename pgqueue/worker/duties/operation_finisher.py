"""The duty that works on operations whose client is gone, and on those that SQL has asked for."""

import logging
import random

from pgqueue.client.operations import work_on
from pgqueue.client.steps import follow_async
from pgqueue.db.connection import run_async
from pgqueue.db.failures import blames_data, brief
from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.worker.core import WorkerCore

log = logging.getLogger("pgqueue.worker")
ABANDONED = 30.0  # seconds without a batch after which the client of an operation is gone
INTERVAL = 10.0


class OperationFinisher(Duty):
    """Takes the oldest operation that nobody works on, and does a batch of it in each step.

    The operation's row is locked for a batch, so any number of workers may do this, beside the client.
    """

    name = "operations"

    def __init__(self, link: Link, core: WorkerCore) -> None:
        super().__init__(link)
        self._app = core.app
        self._operation: int | None = None

    async def step(self) -> float:
        """Do a batch; ask for the next step at once if there is more to do."""
        queries = self._app.queries.operations
        mine, self._operation = self._operation, None
        async with self.link.connection() as conn, conn.transaction():
            locking = queries.lock_abandoned(ABANDONED) if mine is None else queries.lock(mine)
            locked = await run_async(conn, locking)
            if locked is None:
                return INTERVAL * random.uniform(0.5, 1.0)  # noqa: S311
            failure = None
            try:
                async with conn.transaction():
                    self._operation = await follow_async(conn, work_on(self._app, locked))
            except Exception as error:
                if not blames_data(error):
                    raise
                failure = f"{type(error).__name__}: {brief(error)}"
            if failure is not None:  # it would fail each time, and hold up the others
                log.error("operation %d ends, for a batch of it cannot be done: %s", locked.id, failure)
                await run_async(conn, queries.fail(locked.id, failure))
        return 0.0
