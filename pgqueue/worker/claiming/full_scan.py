"""The duty that makes full scans beside the claims, where one takes long: among a million pinned dead rows."""

import asyncio

from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.process.duty import Duty
from pgqueue.queries.base import Query
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.ageing import Ageing
from pgqueue.worker.claiming.frontier import Frontier
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

MAX_JOBS = 200  # that one full scan claims
DEADLINE = 120.0  # seconds for one full scan


class FullScan(Duty):
    """Claims from the beginning of each lane, on a connection of its own, while the producer claims at the frontier.

    The duty is idle, and opens no connection, until the producer finds that a full scan is due and has become costly.
    """

    name = "full scan"
    interruptible = True

    def __init__(self, link: Link, core: WorkerCore, signals: WorkerSignals, frontier: Frontier) -> None:
        super().__init__(link)
        self._queries = core.queries
        self._identity = core.identity
        self._slots = core.slots
        self._signals = signals
        self._frontier = frontier
        self._requested = False
        self._ageing: Ageing | None = None  # whose claim is to be made
        self.paused = False
        self.scanning = False  # its claim may be committed while no part of the worker knows the jobs yet
        self.claims = asyncio.Lock()  # held while it claims, and by the producer while it looks for strays

    @property
    def pending(self) -> bool:
        """Whether it scans, or is to."""
        return self._requested or self.claims.locked()

    def request(self, ageing: Ageing | None = None) -> None:
        """Scan now, or claim the oldest jobs. A request during a scan changes nothing: one at a time is enough."""
        if not self.scanning:
            self._requested = True
            self._ageing = ageing or self._ageing
            self.wake()

    async def step(self) -> float:
        """Make a full scan, if one was requested."""
        requested, self._requested = self._requested, False
        async with self.claims:
            if requested and not self.paused and not self._identity.overdue:
                await self._reserve_and_scan()
        return 3600.0

    async def _reserve_and_scan(self) -> None:
        self.scanning = True
        self._slots.begin_claims()
        rooms = self._slots.reserve(MAX_JOBS)
        ageing, self._ageing = self._ageing, None
        try:
            if rooms and ageing is not None:
                await self._claim_oldest(ageing, rooms)
            elif rooms:
                await self._scan(rooms)
        finally:
            self.scanning = False
            self._slots.unreserve(rooms)
            self._slots.end_claims()

    async def _claim_oldest(self, ageing: Ageing, rooms: dict[str, int]) -> None:
        async def run(query: Query[list[ClaimedJob]]) -> list[ClaimedJob]:
            jobs = await self.link.run_long(query, deadline=DEADLINE)
            self._slots.unreserve(rooms)
            return jobs

        await ageing.claim(run, dict(rooms), min(sum(rooms.values()), self._slots.reserved))

    async def _scan(self, rooms: dict[str, int]) -> None:
        room, began = min(sum(rooms.values()), self._slots.reserved), monotonic()
        division = self._slots.divide(rooms, room)
        query = self._queries.jobs.claim(self._identity.id, division.portions, room)
        with self._frontier.scanning() as scan:
            jobs = await self.link.run_long(query, deadline=DEADLINE)
            scan.saw_all = len(jobs) < room
        self._slots.settle(division, jobs)
        self._signals.claim_took(monotonic() - began)
        self._slots.unreserve(rooms)
        self._frontier.advance(jobs)
        self._signals.jobs_claimed(jobs)
