"""Claiming: keeps the slots full, sleeps when there is nothing, and is woken by NOTIFY or by the clock."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.queries import Queries
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.frontier import SHARE, Frontier
from pgqueue.worker.claiming.full_scan import FullScan
from pgqueue.worker.claiming.slots import Slots

log = logging.getLogger("pgqueue.worker")
BUSY_SECONDS = 1.0
LOCKED_SECONDS = 0.05
OFTEN, SELDOM = 60, 20  # claims with jobs in a second: above the one nobody is to notify us, below the other again
OFTEN_SECONDS, LOOK_SECONDS = 0.2, 0.01
AHEAD_SECONDS, PACE_SECONDS = 0.1, 0.02
MOST = 2000  # jobs in one claim, and claimed ahead
STRAYS_SHARE = 100  # looking for strays may take one part in so many of the time: no claim goes on meanwhile
ADOPT_POLLS = 5  # poll intervals between two looks for parked jobs: they are there only while releases differ


@dataclass(frozen=True, slots=True)
class Served:
    """What a worker takes: which queues, in which order, and the tasks it knows; `versions` up to which one."""

    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    versions: Mapping[str, int] = field(default_factory=dict)


class Producer(Duty):
    """Claims as many jobs as there are free slots, and ahead of them what will begin within a tenth of a second.

    When a claim comes back short the worker says that it waits, looks once more, and sleeps: until a notification,
    until the next job it knows of is due, at the latest for the poll interval. It goes on saying so while it is
    lightly loaded, and takes it back only when it has been full for a second, so that the flag changes seldom; or when
    jobs come often: a NOTIFY holds up the other commits of the database, so then it looks every hundredth of a second.
    When nothing but the poll interval has woken it, it asks whether a job is due before it claims: that writes nothing.
    """

    name = "claim"

    def __init__(
        self,
        link: Link,
        queries: Queries,
        identity: Identity,
        slots: Slots,
        served: Served,
        poll_seconds: float,
        frontier: Frontier,
        full_scan: FullScan,
        take: Callable[[Sequence[ClaimedJob]], None],
        held: Callable[[], list[int]],
    ) -> None:
        super().__init__(link)
        self._queries = queries
        self._identity = identity
        self._slots = slots
        self._served = served
        self._poll = poll_seconds
        self._frontier = frontier
        self._full_scan = full_scan
        self._take = take
        self._held = held
        self._strays_at = self._strays_next = monotonic() + identity.info.lease_seconds / 3
        self._said_waiting = False
        self._busy_since: float | None = None
        self._due_at = 0.0  # by the monotonic clock: when the next known job is due
        self._looked_at = 0.0  # and when that was last asked
        self._ask_at = 0.0  # and may be asked again: where the dead lie thick it takes long
        self._adopted_at = 0.0
        self._parked_left = False
        self._paused: set[str] = set()
        self._just_adopted = False
        self._called = False  # since the last tick began
        self._often = False
        self._came = (monotonic(), 0)  # since when claims with jobs are counted, and how many there were
        self._paced = (monotonic(), 0)  # when the pace was last measured, and how many jobs had ended by then

    def wake(self) -> None:
        """Claim now: something has happened."""
        self._called = True
        super().wake()

    def slot_freed(self) -> None:
        """Claim again, if the last claim left jobs behind."""
        if (self._busy_since is not None or self._slots.limited) and self._slots.wanting:
            self.wake()

    def expect(self, job: ClaimedJob, delay: float) -> None:
        """Be awake in `delay` seconds: this worker has just put a job back until then."""
        self._due_at = min(self._due_at, monotonic() + delay)
        if not delay:
            self._frontier.retreat(job)
        if delay < self._poll:
            self.wake()

    @property
    def paused(self) -> bool:
        """Whether nothing is claimed."""
        return bool(self._paused)

    def pause(self, why: str) -> None:
        """Claim nothing until `resume` was called for every reason to pause."""
        self._paused.add(why)
        self._full_scan.paused = True

    def resume(self, why: str) -> None:
        """Claim again; first give back what the database says is ours and is not."""
        self._paused.discard(why)
        self._full_scan.paused = bool(self._paused)
        self._strays_at = 0.0
        self.wake()

    def forget(self) -> None:
        """Take nothing for known: the identity is new."""
        self._said_waiting = False
        self.wake()

    async def step(self) -> float:
        """Claim once; return how long to sleep."""
        if self._paused:
            return self._poll
        if monotonic() >= self._strays_at and not self._full_scan.looking:
            await self._release_strays()
        self._strays_at = 0.0  # unless this claim is answered, look for strays before the next one
        delay = await self._claim_and_rest()
        self._strays_at = self._strays_next
        return delay

    async def _release_strays(self) -> None:
        """Give back jobs that the database says are ours and that we do not have: the answer to a claim was lost.

        Done after a failed claim, and now and then, for a claim may be committed after its connection was lost.
        """
        began = monotonic()
        strays = await self.link.run(self._queries.jobs.release_strays(self._identity.id, self._held()))
        if strays:
            self._frontier.forget()
            log.warning("gave back %d jobs whose claim was never answered", len(strays))
        ended = monotonic()
        self._strays_next = ended + max(self._identity.info.lease_seconds / 3, STRAYS_SHARE * (ended - began))

    async def _claim_and_rest(self) -> float:
        self._look_ahead()
        room = min(self._slots.room(), sum(self._slots.rooms().values()), MOST) if self._slots.wanting else 0
        if not room:
            self._busy_since = self._busy_since or monotonic()
            return self._poll
        called, self._called = self._called, False
        adopted = await self._adopt()
        if not (adopted or called) and await self._nothing_due():
            return await self._until_due()
        claimed = adopted + await self._claim()
        self._count(claimed)
        if claimed >= room:
            return await self._stay_busy()
        self._busy_since = None
        if self._parked_left:
            return 0.0
        if self._often:
            if self._said_waiting:
                await self._say_waiting(False)
            return LOOK_SECONDS
        if not self._said_waiting:
            await self._say_waiting(True)
            return 0.0  # the last look: what was committed before the flag was set notified nobody
        return await self._until_due()

    def _count(self, claimed: int) -> None:
        """Find out whether jobs come often."""
        since, claims = self._came
        claims += claimed > 0
        if (elapsed := monotonic() - since) >= OFTEN_SECONDS:
            self._often = claims / elapsed > (SELDOM if self._often else OFTEN)
            since, claims = monotonic(), 0
        self._came = since, claims

    async def _claim(self) -> int:
        """Claim beyond the frontier if everything was looked at lately; look at everything if that is not enough.

        Where a look takes long, the lookout has it meanwhile.
        """
        claimed, due = 0, self._frontier.must_look()
        if self._frontier.costly or not due:
            room, claimed = await self._claim_once(beyond=True)
            due = self._frontier.must_look(short=claimed < room)  # the lookout may have looked meanwhile
            if due and self._frontier.costly:
                self._full_scan.look()
                due = False
        return claimed + (await self._claim_once(beyond=False))[1] if due else claimed

    async def _claim_once(self, *, beyond: bool) -> tuple[int, int]:
        """Claim what there is room for; return how much that was, and how many came."""
        room, rooms = min(self._slots.room(), MOST), self._slots.rooms()
        if room <= 0 or not rooms:
            return 0, 0
        worker = self._identity.id
        if beyond:
            jobs = await self.link.run(self._queries.jobs.claim_beyond(worker, rooms, room, self._frontier.places))
            self._frontier.trusted()
        else:
            with self._frontier.look() as look:
                jobs = await self.link.run(self._queries.jobs.claim(worker, rooms, room))
                look.saw_all = len(jobs) < room
        self._frontier.advance(jobs)
        self._take(jobs)
        return room, len(jobs)

    async def _adopt(self) -> int:
        """Take parked jobs of tasks known here. A look every few poll intervals, at once again when it found some; then
        the next claim is for the others, so that neither starves."""
        due = self._parked_left or monotonic() - self._adopted_at >= ADOPT_POLLS * self._poll
        if not due or self._just_adopted:
            self._just_adopted = False
            return 0
        rooms, room = self._slots.rooms(), min(self._slots.room(), MOST)
        served = self._served
        jobs = await self.link.run(
            self._queries.jobs.adopt(self._identity.id, rooms, served.tasks, room, served.versions)
        )
        self._adopted_at = monotonic()
        self._parked_left = self._just_adopted = bool(jobs)
        self._take(jobs)
        return len(jobs)

    def _look_ahead(self) -> None:
        """Claim ahead what will begin within a tenth of a second at the pace of late: nothing where jobs are slow."""
        now, ended = monotonic(), self._slots.ended
        elapsed = now - self._paced[0]
        if elapsed >= PACE_SECONDS:
            pace = (ended - self._paced[1]) / elapsed
            self._slots.ahead = min(int(pace * AHEAD_SECONDS), MOST)
            self._paced = (now, ended)

    async def _stay_busy(self) -> float:
        self._busy_since = self._busy_since or monotonic()
        if self._said_waiting and monotonic() - self._busy_since > BUSY_SECONDS:
            await self._say_waiting(False)
        return 0.0 if self._slots.wanting and self._slots.rooms() else self._poll

    async def _say_waiting(self, waiting: bool) -> None:
        await self.link.run(self._queries.workers.set_waiting(self._identity.id, waiting))
        self._said_waiting = waiting

    async def _nothing_due(self) -> bool:
        """Whether a worker that waits, and that no known job is due for, may leave out its claim."""
        resting = self._said_waiting and self._busy_since is None and not self._frontier.trusting
        if not resting or monotonic() >= self._due_at or monotonic() < self._ask_at:
            return False
        due = await self._ask_due()
        return due is None or due > 0

    async def _ask_due(self) -> float | None:
        """Seconds until a job is due; None if there is none. Noted for how long to sleep."""
        began = monotonic()
        due = await self.link.run(self._queries.jobs.next_due(list(self._slots.rooms())))
        self._looked_at = monotonic()
        self._ask_at = self._looked_at + SHARE * (self._looked_at - began)
        # A job that is due and was not claimed is held by somebody else: no reason to look without a pause.
        self._due_at = math.inf if due is None else self._looked_at + max(due, LOCKED_SECONDS)
        return due

    async def _until_due(self) -> float:
        if monotonic() >= max(self._ask_at, min(self._due_at, self._looked_at + self._poll)):
            await self._ask_due()
        wakes_at = max(self._due_at, self._ask_at) - monotonic()
        return min(max(wakes_at, 0.0), self._frontier.look_in, self._poll)
