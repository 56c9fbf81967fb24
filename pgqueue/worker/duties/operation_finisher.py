"""The duty that works on operations whose client is gone, and on those that SQL has asked for."""

import asyncio
import logging
import random
from contextlib import suppress

from pgqueue.client.bulk import KINDS
from pgqueue.client.operations import next_batch
from pgqueue.client.steps import follow
from pgqueue.db.failures import DATABASE_ERRORS, blames_data, brief
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
        if self._operation is None:
            self._operation = await self.link.run(queries.find_abandoned(KINDS, ABANDONED))
        if self._operation is None:
            return INTERVAL * random.uniform(0.5, 1.0)  # noqa: S311
        working, self._operation = self._operation, None
        # In a thread, on a connection of the app's: it calls validators of tasks, which may take any time.
        self._operation = await asyncio.to_thread(self._work, working)
        return 0.0

    def _work(self, operation: int) -> int | None:
        """Do a batch of an operation; return its id if it has more to do. One that cannot be done ends.

        Where open transactions hold all jobs that are left, others have their turn before it is looked at again.
        """
        queries, pools = self._app.queries.operations, self._app.backend.pools
        try:
            with pools.connection() as conn:
                batch = follow(conn, next_batch(self._app, operation))
            return None if batch is None or batch.is_stuck or batch.operation.ended_at is not None else operation
        except Exception as error:
            failed = blames_data(error)
            reason = f"{type(error).__name__}: {brief(error)}"
            with suppress(*DATABASE_ERRORS):  # on another connection: that of the batch may be gone
                pools.run(queries.fail(operation, reason) if failed else queries.put_off(operation))
            if not failed:
                raise
        log.error("operation %d ends, for a batch of it cannot be done: %s", operation, reason)
        return None
