"""The slots of a process, shared fairly by the schemas that it serves."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import ceil

from pgqueue.jobs.job import ClaimedJob
from pgqueue.worker.slots import RunningJob, Slots


class Budget:
    """So many slots, each of which belongs to one schema at a time, or is free.

    A schema *wants* slots from when it asks until a claim of it has come back short. A schema that wants some alone
    may have all of them. Where several do, each may have an equal part, rounded up: one that has more gives a slot back
    with each job that ends, and it goes to the schema that has waited longest. So a backlog in one of two schemas takes
    half of the slots from the other, and with more schemas than slots, slots go round. No running job is stopped.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._members: deque[SharedSlots] = deque()  # the one that has waited longest for a slot first

    def join(self, member: "SharedSlots") -> None:
        """Let a schema have slots."""
        self._members.append(member)

    def leave(self, member: "SharedSlots") -> None:
        """Let a schema have no further slots. Those in which jobs run come back when these end."""
        if member in self._members:
            self._members.remove(member)
            member.wants = False
            self.take_back(member, member.unused)

    def ask(self, member: "SharedSlots") -> None:
        """Give a schema that is about to claim what it may have. One slot is enough to find whether it has jobs at all,
        where others have some."""
        if member not in self._members:
            return
        knows, member.wants = member.wants, True
        others = [one for one in self._members if one is not member and one.wants]
        if others:
            most = ceil(self.part)
        elif knows or self.free == self.total:
            most = self.total
        else:
            most = max(member.total, 1)
        given = max(min(self.free, most - member.total), 0)
        self.free -= given
        member.total += given

    def answer(self, member: "SharedSlots") -> None:
        """Take back what a claim has left unused: the schema has no more jobs that are due."""
        if member.unused or not member.total:
            member.wants = member.wants and not member.unused
            self.take_back(member, member.unused)

    def ended(self, member: "SharedSlots") -> None:
        """Take back the slot of a job that has ended, unless its schema may go on with it."""
        if member not in self._members or not (member.wants or member.has_waiting) or self._owes(member):
            self.take_back(member, min(member.unused or 1, 1))

    def take_back(self, member: "SharedSlots", slots: int) -> None:
        """Take slots from a schema, and give them to those that wait for some."""
        if slots <= 0:
            return
        member.total -= slots
        self.free += slots
        while self.free and (next_one := self._next(but=member)) is not None:
            self.free -= 1
            next_one.total += 1
            self._members.remove(next_one)
            self._members.append(next_one)
            next_one.slot_came()

    def fill(self, member: "SharedSlots") -> None:
        """Give a free slot to a schema of which a job waits for one: its arguments had to be read first."""
        if self.free and member in self._members and member.total < ceil(self.part):
            self.free -= 1
            member.total += 1

    def _next(self, but: "SharedSlots") -> "SharedSlots | None":
        return next((one for one in self._members if one is not but and self._may_have_more(one)), None)

    @property
    def part(self) -> float:
        """How many slots each of the schemas may have that want some."""
        return self.total / max(sum(one.wants for one in self._members), 1)

    def _may_have_more(self, member: "SharedSlots") -> bool:
        return (member.wants or member.has_waiting) and member.total < self.part and not member.unused

    def _owes(self, member: "SharedSlots") -> bool:
        """Whether a schema has more than its part, and another one less."""
        part = self.part
        return member.total > part and any(one is not member and self._may_have_more(one) for one in self._members)


class SharedSlots(Slots):
    """The slots of one schema: `total` is how many it has now. `slot_came` is called when it has got one more."""

    def __init__(
        self, budget: Budget, queues: Sequence[str], limits: Mapping[str, int], shares: Mapping[str, int] = {}
    ) -> None:
        super().__init__(budget.total, queues, limits, shares)
        self._budget = budget
        self.total = 0
        self.wants = False
        self.slot_came: Callable[[], object] = lambda: None
        self.busy: Callable[[], object] = lambda: None  # called when it has a job again

    @property
    def most(self) -> int:
        """How many slots it may ever have."""
        return self._budget.total

    @property
    def has_waiting(self) -> bool:
        """Whether a job waits for a slot."""
        return bool(self._waiting)

    @property
    def unused(self) -> int:
        """How many of its slots neither run a job nor have one that waits for them."""
        return max(self.total - len(self._running) - len(self._waiting) - self.reserved, 0)

    def claim_ahead(self, jobs: int) -> None:
        """Claim so many jobs ahead of free slots; none where slots go round, for they would wait for long."""
        super().claim_ahead(jobs if self._budget.part >= 1 else 0)

    def begin_claims(self) -> None:
        """Ask for slots."""
        self._budget.ask(self)

    def end_claims(self) -> None:
        """Give back what is not used."""
        self._budget.answer(self)

    def add_waiting(self, job: ClaimedJob) -> None:
        """Let a claimed job wait for its slot."""
        if not self._waiting and not self._running:
            self.busy()
        super().add_waiting(job)
        if self.total < len(self._running) + len(self._waiting):
            self._budget.fill(self)

    def free(self, running: RunningJob) -> None:
        """Empty a slot: its job has ended."""
        super().free(running)
        self._budget.ended(self)
