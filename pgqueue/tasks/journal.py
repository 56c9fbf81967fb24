"""The journal of one attempt: what its job has recorded, and what the task may do next.

Pure: a call of `ctx.step`, `ctx.sleep` or a wait is a generator of requests, which a host answers. So sync and async
tasks share all of it.
"""

import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pgqueue.errors import InvalidStep, StepMismatch
from pgqueue.jobs.bucket_key import NoKey, key_text
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.step import Kind, NewStep, RecordedStep, Wakening
from pgqueue.jobs.verdicts import Asleep
from pgqueue.tasks.calls import TaskCall
from pgqueue.timing import monotonic

T = TypeVar("T")
MAX_NAME = 200
WAITED_HERE = 1.0  # seconds: a shorter sleep keeps its slot
WORDS = {
    "value": "a step", "sleep": "a sleep", "signal": "a wait for a signal", "event": "a wait for an event",
    "call": "a call",
}  # fmt: skip
# Whether the function of a step runs here: it cannot wait, for it would run again.
inside_step: ContextVar[str | None] = ContextVar("pgqueue_step", default=None)


@dataclass(frozen=True, slots=True)
class Load:
    """Read what the job has recorded: a list of RecordedStep."""


@dataclass(frozen=True, slots=True)
class Record:
    """Record a step: the RecordedStep. Raises LeaseLost."""

    step: NewStep


@dataclass(frozen=True, slots=True)
class Take:
    """Let a wait take what was sent: the RecordedStep as it is then. Raises LeaseLost."""

    name: str


@dataclass(frozen=True, slots=True)
class Compensate:
    """Undo what is recorded, and record that. Raises LeaseLost."""

    step: NewStep


@dataclass(frozen=True, slots=True)
class Call:
    """Insert the jobs of calls, and record the step that calls them: the RecordedStep. Raises LeaseLost."""

    step: NewStep
    calls: Sequence[TaskCall[Any]]
    many: bool


@dataclass(frozen=True, slots=True)
class Collect:
    """Let a step take how its calls have ended: the RecordedStep as it is then. Raises LeaseLost."""

    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait here for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until no other call is in flight: what it records must not come after the end of the attempt."""


Request: TypeAlias = Load | Record | Take | Compensate | Call | Collect | Pause | Settle
Flow: TypeAlias = Generator[Request, Any, T]


class AlreadyRecorded(Exception):
    """The step of a transaction is recorded already: the transaction rolls back, and what is recorded counts."""

    def __init__(self, step: RecordedStep) -> None:
        super().__init__(step.name)
        self.step = step


@dataclass(frozen=True, slots=True)
class Begun:
    """A use of a name. `full` is the name under which it is recorded, `recorded` what stands there already."""

    base: str
    full: str
    recorded: RecordedStep | None


class Journal:
    """What one attempt of a job has recorded, which names it uses, and until when it waits. Used by several threads.

    `version`: of the task, as it stands with the steps.
    """

    def __init__(self, job: ClaimedJob, version: int) -> None:
        self._job = job
        self._version = version
        # Nothing is recorded of a job that was never claimed before.
        self._recorded: dict[str, RecordedStep] | None = {} if job.lease == 1 else None
        self._read_at: dict[str, float] = {}
        self._uses: Counter[str] = Counter()
        self._open: set[str] = set()
        self._wakenings: dict[str, Wakening] = {}
        self._lock = threading.Lock()

    @property
    def wakening(self) -> Wakening:
        """When the job goes on: the earliest end of what it waits for."""
        ends = [one for one in self._wakenings.values() if one.left is not None]
        return min(ends, key=lambda one: one.left or 0.0, default=Wakening(None, None))

    @property
    def is_loaded(self) -> bool:
        """Whether what is recorded has been read."""
        return self._recorded is not None

    @property
    def unused(self) -> list[str]:
        """The names that are recorded and that this attempt has not used."""
        used = {_numbered(base, use) for base, uses in self._uses.items() for use in range(uses)}
        return [name for name in self._recorded or () if name not in used]

    @property
    def started_version(self) -> int:
        """The version of the task that recorded the first step; the present one before that."""
        steps = (self._recorded or {}).values()
        return min(steps, key=lambda step: step.number).version if steps else self._version

    def loading(self) -> Flow[None]:
        """Read what is recorded, once."""
        if self._recorded is None:
            found: list[RecordedStep] = yield Load()
            with self._lock:
                if self._recorded is None:
                    self._recorded = {step.name: step for step in found}
                    self._read_at = dict.fromkeys(self._recorded, monotonic())

    def beginning(self, name: object, kind: Kind) -> Flow[Begun]:
        """Use a name: find what is recorded of it. `leave` ends the use.

        Raises InvalidStep for a name that cannot be used or is in use, StepMismatch if another kind is recorded.
        """
        base = check_name(name)
        with self._lock:
            if base in self._open:
                raise InvalidStep(
                    f"step {base!r} of job {self._job.id} is used twice at the same time, and a replay could not tell "
                    "one from the other: give each its own name"
                )
            self._open.add(base)
            full = _numbered(base, self._uses[base])
        try:
            yield from self.loading()
            recorded = (self._recorded or {}).get(full)
            if recorded is not None and recorded.kind != kind:
                raise StepMismatch(
                    f"step {full!r} of job {self._job.id} is recorded as {WORDS[recorded.kind]}, and the task asks for "
                    f"{WORDS[kind]}: deploy code that agrees and redrive the job, or app.rerun({self._job.id}, "
                    f"from_step={full!r})"
                )
        except BaseException:
            self.leave(base, used=False)
            raise
        return Begun(base, full, recorded)

    def leave(self, base: str, *, used: bool) -> None:
        """End a use of a name. A use that recorded nothing does not count: the next call has the same name."""
        with self._lock:
            self._open.discard(base)
            self._uses[base] += used

    def note(self, step: RecordedStep) -> RecordedStep:
        """Keep what was recorded just now."""
        with self._lock:
            self._read_at[step.name] = monotonic()
            if self._recorded is not None:
                self._recorded[step.name] = step
        return step

    def sleeping(self, name: str, seconds: float) -> Flow[None]:
        """Sleep, or raise Asleep."""
        _refuse_inside(name)
        begun = yield from self.beginning(name, "sleep")
        over = False
        try:
            step = begun.recorded
            if step is None:
                step = self.note((yield Record(NewStep(begun.full, "sleep", seconds=seconds, version=self._version))))
            left = self._left(step)
            if left > WAITED_HERE:
                yield from self._falling_asleep(step)
            if left > 0:
                yield Pause(left)
            over = True
        finally:
            self.leave(begun.base, used=over)

    def waiting(self, name: str, kind: Kind, key: str | None, seconds: float | None) -> Flow[RecordedStep]:
        """Wait for a signal or an event, or raise Asleep; the step with what came, or with the timeout."""
        _refuse_inside(name)
        begun = yield from self.beginning(name, kind)
        step = begun.recorded
        try:
            if step is None:
                new = NewStep(begun.full, kind, None, seconds, begun.base, key, version=self._version)
                step = self.note((yield Record(new)))
            if not step.done:
                step = self.note((yield Take(begun.full)))
            if not step.done and step.left is not None and step.left <= WAITED_HERE:
                yield Pause(max(self._left(step), 0.0) + 0.001)
                step = self.note((yield Take(begun.full)))
            if not step.done:
                yield from self._falling_asleep(step)
        finally:
            self.leave(begun.base, used=step is not None and step.done)
        return step

    def calling(self, name: str, calls: Sequence[TaskCall[Any]], *, many: bool) -> Flow[RecordedStep]:
        """Call jobs and wait for their ends, or raise Asleep; the step with how they have ended."""
        _refuse_inside(name)
        begun = yield from self.beginning(name, "call")
        step = begun.recorded
        try:
            if step is None:
                step = self.note((yield Call(NewStep(begun.full, "call", version=self._version), calls, many)))
            if not step.done:
                step = self.note((yield Collect(begun.full)))
            if not step.done:
                yield from self._falling_asleep(step)
        finally:
            self.leave(begun.base, used=step is not None and step.done)
        return step

    def compensating(self, name: str) -> Flow[None]:
        """Undo what is recorded, once."""
        begun = yield from self.beginning(name, "value")
        done = begun.recorded is not None
        try:
            if not done:
                self.note((yield Compensate(NewStep(begun.full, "value", version=self._version))))
                done = True
        finally:
            self.leave(begun.base, used=done)

    def _falling_asleep(self, step: RecordedStep) -> Flow[None]:
        self._wakenings[step.name] = Wakening(step.wake_at, None if step.left is None else self._left(step))
        yield Settle()
        raise Asleep(self)

    def _left(self, step: RecordedStep) -> float:
        """Return in how many seconds a sleep or a wait is over."""
        return (step.left or 0.0) - (monotonic() - self._read_at.get(step.name, monotonic()))


def check_name(name: object, what: str = "step") -> str:
    """Return the name of a step, a signal or an event. Raises InvalidStep if it cannot be used."""
    if isinstance(name, str) and 1 <= len(name) <= MAX_NAME and name.isprintable() and "#" not in name:
        return name
    raise InvalidStep(f"{what} name {name!r:.100} cannot be used: give 1 to {MAX_NAME} printable characters without #")


def check_key(key: object) -> str:
    """Return the key of an event as text. Raises InvalidStep if it cannot be used."""
    try:
        return key_text(key)
    except NoKey as error:
        raise InvalidStep(f"event key {key!r:.100} cannot be used: {error}") from None


def _numbered(base: str, uses: int) -> str:
    return base if uses == 0 else f"{base}#{uses + 1}"


def _refuse_inside(name: object) -> None:
    outer = inside_step.get()
    if outer is not None:
        raise InvalidStep(
            f"{name!r:.100} waits inside the function of step {outer!r}, which would run again after it: wait outside"
        )
