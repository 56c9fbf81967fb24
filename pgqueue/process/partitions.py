"""The duty that makes daily partitions ahead of time."""

import logging
import random

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.queries import Queries
from pgqueue.queries.partitions import PartitionState, empty_defaults, faulty

log = logging.getLogger("pgqueue")

DEADLINE = 60.0  # leaves time for locks, and for reading a large default partition


STEPS = 100  # of maintain() at a time: as many days could have rows in default partitions


class PartitionMaker(Duty):
    """Makes the daily partitions of the week ahead, and empties default partitions; the first time at once.

    It does so itself as an owner of the tables, else by `maintain()`, where its role may call that.
    What it cannot mend is logged when it changes, and tried again within minutes.
    """

    name = "partitions"

    def __init__(self, link: Link, queries: Queries) -> None:
        super().__init__(link)
        self._queries = queries.partitions
        self._before: list[PartitionState] = []
        self._faults: list[PartitionState] = []

    async def step(self) -> float:
        """Make the partitions that are missing. The long deadline leaves time for their locks."""
        if await self.link.run(self._queries.delegated()):
            await self._maintain()
        else:
            await self._empty_defaults()
            await self.link.run_long(self._queries.make(), deadline=DEADLINE)
        await self._report()
        return (300 if self._faults else 3600) * random.uniform(0.5, 1.0)  # noqa: S311

    async def _maintain(self) -> None:
        """Let the schema do it, step by step, with the rights of its owner."""
        for _ in range(STEPS):
            done = await self.link.run_long(self._queries.maintain(), deadline=DEADLINE)
            if done is None:
                return
            log.info("partitions: %s", done)

    async def _empty_defaults(self) -> None:
        states = await self.link.run(self._queries.states())
        if not any(state.default_bytes for state in states):
            return
        if states != self._before:  # VACUUM takes its time to shrink an emptied one
            for state in (state for state in states if state.default_bytes):
                log.warning("rows came before their partition, and get one now: %s", state)
        for query in empty_defaults(self._queries):
            await self.link.run_apart(query, deadline=DEADLINE)
        self._before = await self.link.run(self._queries.states())

    async def _report(self) -> None:
        faults = faulty(await self.link.run(self._queries.states()))
        if [fault[:3] for fault in faults] != [fault[:3] for fault in self._faults]:  # sizes change all the time
            for fault in faults:
                log.warning("%s: docs/operations.md, Partitions, says what to do", fault)
            if not faults:
                log.info("all partitions are there again")
        self._faults = faults
