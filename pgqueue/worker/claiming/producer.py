"""The duty that claims: it keeps the slots full, sleeps when no job is due, and wakes by NOTIFY or by the clock."""

import logging
import math
from collections.abc import Collection, Iterable, Sequence

from pgqueue.db.link import Link
from pgqueue.jobs.job import ClaimedJob
from pgqueue.process.duty import Duty
from pgqueue.timing import monotonic
from pgqueue.worker.claiming.ageing import Ageing
from pgqueue.worker.claiming.frontier import SCAN_SHARE, Cost, Frontier
from pgqueue.worker.claiming.full_scan import FullScan
from pgqueue.worker.claiming.pace import MAX_CLAIM, ClaimRate, Pace
from pgqueue.worker.claiming.roster import Roster
from pgqueue.worker.claiming.turn_claims import Part, TurnClaims
from pgqueue.worker.core import WorkerCore
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")
BUSY_POLL_SECONDS = 0.01  # between two claims where claims often bring jobs
FULL_SECONDS = 1.0  # for which the slots must have been full before we ask for no NOTIFY
ASK_SECONDS = 10.0  # after which we ask for the next due job again, however long that took: it finds new lanes
LOCKED_SECONDS = 0.05  # before a job is claimed again that is due but locked by another transaction
STRAYS_SHARE = 100  # the search for strays is due again after so many times its own duration: it holds up the claims
TURN_SECONDS = 5.0  # within which a turn that comes by the clock, as the next start of a rate, is soon
PLAIN_REST_SECONDS = 0.1  # without a claim of plain jobs beside metered ones, after one that found none
DUE_SOON = 15.0  # seconds: of a job that is due later, somebody will say so again
ADOPT_POLLS = 5  # poll intervals between two searches for parked jobs, which exist only while releases differ


class Producer(Duty):
    """Claims as many jobs as there are free slots, and ahead of them those that will begin within a tenth of a second.

    When a claim comes back short of jobs the worker marks its row as waiting, which asks for NOTIFY, claims once more,
    and sleeps: until a notification, until the next job it knows of is due, at most for the poll interval. It keeps the
    mark while it is lightly loaded, and removes it only when its slots have been full for a second, so that the row
    changes seldom; or when jobs come often: a NOTIFY holds up the other commits of the database, so then the worker
    polls every hundredth of a second. When only the poll interval has woken it, it asks whether a job is due before it
    claims: the question writes nothing. It asks as well after a notification that has brought no job, for a worker that
    expects no metered jobs does not look for them.

    Metered jobs, of which the turns are decided by rules, are claimed beside the others, queue by queue.
    """

    name = "claim"

    def __init__(
        self, link: Link, core: WorkerCore, signals: WorkerSignals, frontier: Frontier, full_scan: FullScan
    ) -> None:
        super().__init__(link)
        self._queries = core.queries
        self._identity = core.identity
        self._slots = core.slots
        self._served = core.served
        self._tasks = core.app.tasks
        self._host, self._given_poll = core.host, core.settings.poll_seconds
        self._lease = core.settings.lease_seconds
        self._signals = signals
        self._frontier = frontier
        self._full_scan = full_scan
        self._ageing = Ageing(core, signals, frontier)
        self._turns = TurnClaims(link, core, signals)
        self._paused: set[str] = set()
        self._woken = False  # since the last step began
        self._handed_on = False  # a bucket has room again
        self._marked_waiting = False  # what the worker's row says
        self._full_since: float | None = None
        self._rests_until = 0.0  # the next step that claims jobs of all kinds
        self._plain_from = 0.0  # when plain jobs are claimed again beside metered ones
        self._rate, self._pace = ClaimRate(), Pace()
        # All times below are by the monotonic clock.
        self._due_at = 0.0  # when the next job that we know of is due
        self._asked_at = 0.0  # when we last asked for that
        self._ask_from = 0.0  # when we may ask again: among many dead rows the question takes long
        self._ask_cost = Cost()
        self._notified = False  # since the last step began, of what may be a metered job
        self._unexplained = False  # a notification has brought no job
        self._adopted_at = 0.0  # when we last looked for parked jobs
        self._parked_left = False
        self._just_adopted = False
        self._strays_at = self._strays_next = monotonic() + self._lease / 3

    def wake(self) -> None:
        """Claim now: something has happened."""
        self._woken = True
        super().wake()

    def look_back(self) -> None:
        """Claim now, from the beginning of each lane: jobs have come back to their old places."""
        self._frontier.request_scan()
        self.wake()

    def expects_jobs(self) -> bool:
        """Whether a claim that is under way, or comes within seconds, may bring jobs that are due; also while it claims
        nothing."""
        within = self._turns.turn_in() < TURN_SECONDS
        return self.paused or self._parked_left or self._full_scan.pending or within

    def seek(self) -> None:
        """Claim now, jobs of all kinds, from the beginning of each lane."""
        self.rules_changed()
        self.look_back()

    def slot_freed(self) -> None:
        """Claim again, if the last claim left jobs behind."""
        if (self._full_since is not None or self._slots.limited) and self._slots.wants_jobs:
            self.wake()

    def job_committed(self) -> None:
        """Claim now: a notification says that a job was committed."""
        self._notified = not self._turns.notified()
        self._plain_from = 0.0
        self.wake()

    def due_in(self, seconds: float) -> None:
        """Be awake in so many seconds: somebody has seen that a job is due then."""
        if seconds < DUE_SOON and monotonic() + seconds < self._due_at:
            self._due_at = monotonic() + max(seconds, 0.0)
            super().wake()

    def rules_changed(self) -> None:
        """Claim now, and look at metered jobs first: a limit or a pause was changed."""
        self._turns.want_look()
        self.wake()

    def turns_ended(self, jobs: Iterable[ClaimedJob]) -> None:
        """Claim again what shares a bucket with these metered jobs, which do not run any more."""
        if self._turns.roster.ended(jobs) and self._slots.wants_jobs:
            self._handed_on = True
            super().wake()

    def expect(self, job: ClaimedJob, delay: float) -> None:
        """Be awake in `delay` seconds: this worker has just put a job back until then."""
        if job.lane is not None:
            self._turns.want_look()
        else:
            self._due_at = min(self._due_at, monotonic() + delay)
            if not delay:
                self._frontier.retreat(job)
        if delay < self._poll:
            self.wake()

    @property
    def _poll(self) -> float:
        return self._host.poll_seconds(self._given_poll)

    @property
    def has_nothing_to_do(self) -> bool:
        """Whether the worker waits for a notification, and knows of no job that is due soon."""
        rests = self._marked_waiting and not self._woken and self._full_since is None and not self._frontier.relied_on
        return rests and not self.expects_jobs() and self._turns.rests and not len(self._turns.roster)

    @property
    def roster(self) -> Roster:
        """The lanes of metered jobs that the worker knows."""
        return self._turns.roster

    @property
    def paused(self) -> bool:
        """Whether the worker claims nothing."""
        return bool(self._paused)

    def paused_for(self, reason: str) -> bool:
        """Whether this is a reason for which the worker claims nothing."""
        return reason in self._paused

    def pause(self, reason: str) -> None:
        """Claim nothing until `resume` was called for every reason to pause."""
        self._paused.add(reason)
        self._full_scan.paused = True

    def resume(self, reason: str) -> None:
        """Claim again, unless another reason to pause remains. The first step releases strays."""
        self._paused.discard(reason)
        self._full_scan.paused = bool(self._paused)
        self._strays_at = 0.0
        self.wake()

    def start_over(self) -> None:
        """Assume nothing about the worker's row: it is a new one, for the id is new."""
        self._marked_waiting = False
        self._turns.roster.drop_running()
        self.wake()

    def rests(self) -> bool:
        """Whether the heartbeat is overdue: a question that hangs now would hold up the first claim after it."""
        return self._identity.overdue

    async def step(self) -> float:
        """Claim once; return how long to sleep."""
        if self._paused or self._identity.overdue:  # a process that was stopped for long may have no row any more
            self._slots.end_claims()
            return self._poll
        self._slots.begin_claims()
        try:
            return await self._step()
        finally:
            self._slots.end_claims()

    async def _step(self) -> float:
        if monotonic() >= self._strays_at and not self._full_scan.scanning:
            async with self._full_scan.claims:
                await self._release_strays()
        self._strays_at = 0.0  # unless this claim is answered, look for strays before the next one
        if self._handed_on and not self._woken and self._full_since is None:
            await self._hand_on()
        if self._woken or self._full_since is not None or monotonic() >= self._rests_until:
            self._handed_on = False
            self._rests_until = monotonic() + await self._claim_and_rest()
        self._strays_at = self._strays_next
        return max(self._rests_until - monotonic(), 0.0)

    async def _hand_on(self) -> None:
        """Claim metered jobs first, where the last claim has left no other ones: what ended hands on its place. What
        ends during this claim does so again."""
        self._handed_on = False
        for queue in self._turns.queues_in_order():
            await self._claim_metered(queue)

    async def _release_strays(self) -> None:
        """Release jobs that the database says are ours and that we do not have: the answer to a claim was lost.

        Done after a failed claim, and from time to time, for a claim may be committed after its connection was lost.
        """
        began = monotonic()
        strays = await self.link.run(self._queries.jobs.release_strays(self._identity.id, self._signals.held_jobs()))
        if strays:
            self._frontier.request_scan()
            log.warning("released %d jobs whose claim was never answered", len(strays))
        ended = monotonic()
        self._strays_next = ended + max(self._lease / 3, STRAYS_SHARE * (ended - began))

    async def _claim_and_rest(self) -> float:
        slots = self._slots
        slots.claim_ahead(self._pace.ahead(slots.ended, before=slots.ahead))
        room = min(slots.room(), sum(slots.room_by_queue().values()), MAX_CLAIM) if slots.wants_jobs else 0
        if not room:
            self._full_since = self._full_since or monotonic()
            await self._turns.look(busy=True)  # a rule may say that jobs behind a full bucket do not wait
            return self._poll
        woken, self._woken = self._woken, False
        self._unexplained, self._notified = self._unexplained or self._notified, False
        adopted = await self._adopt()
        if not (adopted or woken) and await self._nothing_due():
            return await self._until_due()
        claimed = adopted + await self._claim()
        self._unexplained = self._unexplained and not claimed
        self._rate.note(claimed)
        if claimed >= room:
            return await self._rest_when_full()
        self._full_since = None
        if self._parked_left:
            return 0.0
        if self._rate.is_high:
            if self._marked_waiting:
                await self._mark_waiting(False)
            return BUSY_POLL_SECONDS
        if not self._marked_waiting:
            await self._mark_waiting(True)
            return 0.0  # claim once more: a job that was committed before the mark has notified no worker
        return await self._until_due()

    async def _claim(self) -> int:
        """Claim from the queues in order, plain and metered jobs; return how many."""
        await self._turns.look(busy=self._full_since is not None)
        claimed = await self._claim_oldest()
        if self._slots.has_shares:  # first what metered jobs of each queue may have of the slots, and last what is left
            for queue in self._turns.queues_in_order():
                claimed += await self._claim_metered(queue, self._slots.part_left(queue))
            claimed += await self._claim_plain()
            for queue in self._turns.queues_in_order():
                claimed += await self._claim_metered(queue)
            return claimed
        return claimed + await self._claim_in_parts(self._turns.parts(self._slots.queues))

    async def _claim_in_parts(self, parts: Sequence[Part]) -> int:
        """Claim part by part while there is room; return how many jobs came.

        Beside metered jobs, plain ones are left out for a while after none was found, unless metered ones leave room:
        to hear once more that there is none takes a busy event loop milliseconds, in which the database claims nothing.
        """
        rests, room = len(parts) > 1 and monotonic() < self._plain_from, min(self._slots.room(), MAX_CLAIM)
        asked, metered, plain = False, 0, 0
        for part in parts:
            if self._slots.room() <= 0:
                break
            if part.metered is not None:
                metered += await self._claim_metered(part.metered)
            elif not rests:
                asked = asked or self._rest_from_plain()
                plain += await self._claim_part(part.plain)
        if rests and metered < room:
            self._rest_from_plain()
            plain = await self._claim_plain()
        if plain:
            self._plain_from = 0.0
        return metered + plain

    def _rest_from_plain(self) -> bool:
        """Leave plain jobs out for a while, unless the claim that follows brings some. A notification that comes during
        that claim ends the rest, for its job was not seen."""
        self._plain_from = monotonic() + PLAIN_REST_SECONDS
        return True

    async def _claim_part(self, queues: Sequence[str]) -> int:
        return await (self._claim_plain() if len(queues) == len(self._slots.queues) else self._claim_some(queues))

    async def _claim_metered(self, queue: str, most: int = MAX_CLAIM) -> int:
        room = min(self._slots.room_by_queue().get(queue, 0), self._slots.room(), most)
        if room <= 0:
            return 0
        began = monotonic()
        jobs = await self._turns.claim(queue, room)
        self._signals.claim_took(monotonic() - began)
        self._signals.jobs_claimed(jobs)
        return len(jobs)

    async def _claim_some(self, queues: Collection[str]) -> int:
        """Claim plain jobs of some of the queues: from the beginning of each lane where a full scan is due and cheap.

        For the frontier that is no full scan: the next one is still due.
        """
        at_frontier = self._frontier.scan_is_costly or not self._frontier.scan_due()
        if self._frontier.scan_is_costly and self._frontier.scan_due():
            self._full_scan.request()
        return (await self._claim_once(at_frontier=at_frontier, only=queues))[1]

    async def _claim_plain(self) -> int:
        """Claim at the frontier, unless a full scan is due; make a full scan too if that brought too few jobs.

        A costly full scan is left to the duty `FullScan`.
        """
        claimed, due = 0, self._frontier.scan_due()
        if self._frontier.scan_is_costly or not due:
            room, came = await self._claim_once(at_frontier=True)
            claimed += came
            due = self._frontier.scan_due(short=came < room)  # `FullScan` may have made one meanwhile
            if due and self._frontier.scan_is_costly:
                self._full_scan.request()
                due = False
        return claimed + (await self._claim_once(at_frontier=False))[1] if due else claimed

    async def _claim_oldest(self) -> int:
        """Claim the jobs that have waited longest, if that is due; return how many came."""
        if not self._ageing.due():
            return 0
        if self._frontier.scan_is_costly:
            self._full_scan.request(self._ageing)
            return 0
        return await self._ageing.claim(self.link.run, self._slots.room_by_queue(), min(self._slots.room(), MAX_CLAIM))

    async def _claim_once(self, *, at_frontier: bool, only: Collection[str] | None = None) -> tuple[int, int]:
        """Claim as many jobs as there is room for; return how many that was, and how many came."""
        if self._slots.has_patterns and only is None:
            self._slots.take_turns()
        room, rooms = min(self._slots.room(), MAX_CLAIM), self._slots.room_by_queue()
        if only is not None:
            rooms = {queue: most for queue, most in rooms.items() if queue in only}
        if room <= 0 or not rooms:
            return 0, 0
        worker, began, division = self._identity.id, monotonic(), self._slots.divide(rooms, room)
        portions = division.portions
        if at_frontier:
            jobs = await self.link.run(self._queries.jobs.claim_beyond(worker, portions, room, self._frontier.places))
            self._frontier.rely()
        elif only is not None:
            jobs = await self.link.run(self._queries.jobs.claim(worker, portions, room))
        else:
            with self._frontier.scanning() as scan:
                jobs = await self.link.run(self._queries.jobs.claim(worker, portions, room))
                scan.saw_all = len(jobs) < room
        self._signals.claim_took(monotonic() - began)
        self._slots.settle(division, jobs)
        self._frontier.advance(jobs)
        self._turns.note_plain(rooms, jobs)
        self._signals.jobs_claimed(jobs)
        return room, len(jobs)

    async def _adopt(self) -> int:
        """Adopt parked jobs of tasks that this worker knows; return how many.

        The search is due every few poll intervals, and at once again when it found some. Then the next step claims
        other jobs, so that neither kind starves.
        """
        due = self._parked_left or monotonic() - self._adopted_at >= ADOPT_POLLS * self._poll
        if not due or self._just_adopted:
            self._just_adopted = False
            return 0
        rooms, room = self._slots.room_by_queue(), min(self._slots.room(), MAX_CLAIM)
        parked = await self.link.run(self._queries.jobs.parked_labels(self._served.tasks))
        readable = self._tasks.readable(parked)
        jobs: list[ClaimedJob] = []
        if readable:
            adopt = self._queries.jobs.adopt(self._identity.id, rooms, list(readable), room, readable)
            jobs = await self.link.run(adopt)
        self._adopted_at = monotonic()
        self._parked_left = self._just_adopted = bool(jobs)
        self._signals.jobs_claimed(jobs)
        return len(jobs)

    async def _rest_when_full(self) -> float:
        self._full_since = self._full_since or monotonic()
        if self._marked_waiting and monotonic() - self._full_since > FULL_SECONDS:
            await self._mark_waiting(False)
        return 0.0 if self._slots.wants_jobs and self._slots.room_by_queue() else self._poll

    async def _mark_waiting(self, waiting: bool) -> None:
        await self.link.run(self._queries.workers.set_waiting(self._identity.id, waiting))
        self._marked_waiting = waiting

    async def _nothing_due(self) -> bool:
        """Whether this step may leave out its claim: the worker waits, and knows of no job that is due."""
        resting = self._marked_waiting and self._full_since is None and not self._frontier.relied_on
        resting = resting and self._turns.rests
        if not resting or monotonic() >= self._due_at or monotonic() < self._ask_from:
            return False
        due, _ = await self._ask_due()
        return (due is None or due > 0) and self._turns.rests

    async def _ask_due(self) -> tuple[float | None, bool]:
        """Return in how many seconds the next job is due, None if there is none, and whether it is one that the last
        claim could not see, in a new lane; note it for how long to sleep."""
        began = monotonic()
        self._unexplained = False
        found = await self.link.run(self._queries.jobs.next_due(list(self._slots.room_by_queue())))
        due = found.seconds
        if found.metered:
            self._turns.want_look()
        self._asked_at = monotonic()
        self._ask_from = self._asked_at + min(SCAN_SHARE * self._ask_cost.note(self._asked_at - began), ASK_SECONDS)
        is_new = self._frontier.meet(found.lanes)
        # A job that is due, but that the claim did not bring, is locked by another transaction: pause before the next.
        self._due_at = math.inf if due is None else self._asked_at + (0.0 if is_new else max(due, LOCKED_SECONDS))
        return due, is_new

    async def _until_due(self) -> float:
        """Ask for the next due job, if that is due: also once after a notification that has brought none."""
        asks_at = -math.inf if self._unexplained else min(self._due_at, self._asked_at + self._poll)
        if monotonic() >= max(self._ask_from, asks_at):
            _, is_new = await self._ask_due()
            if is_new:
                return 0.0
        wakes_at = max(-math.inf if self._unexplained else self._due_at, self._ask_from) - monotonic()
        return min(max(wakes_at, 0.0), self._frontier.scan_in, self._turns.rest_in(), self._poll)
