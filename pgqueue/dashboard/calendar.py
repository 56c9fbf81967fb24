"""What fires within the next day: ticks of schedules on a line of 24 hours, and the next of them as a list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from pgqueue.queries.schedules.stored import FoundSchedule, StoredSchedule
from pgqueue.schedules.plan import Span
from pgqueue.schedules.ticks import ScheduleState
from pgqueue.timing import monotonic

DAY = timedelta(hours=24)
WIDTH = 240
MOST_OF_ONE = 96  # ticks of one schedule, which then is busy: its line is full
SLACK = timedelta(minutes=10)  # how long the ticks of a day are kept
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST_OF_ALL = 2000
OFTEN = 24  # ticks a day; what ticks oftener would fill the list
LISTED = 20
BUDGET = 0.2  # seconds after which no other schedule is begun: the ticks of an old recurrence are slow to find


class Mark(NamedTuple):
    """A tick on the line of a schedule, and its words."""

    x: float
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """The next day of one schedule. `busy`: it has more ticks than a line shows, and no marks."""

    marks: Sequence[Mark]
    busy: bool = False

    @property
    def words(self) -> str:
        """The line in words, for whoever does not see it."""
        if self.busy:
            return f"more than {MOST_OF_ONE} ticks in 24 hours"
        return f"{len(self.marks)} tick{'' if len(self.marks) == 1 else 's'} in 24 hours"


class Entry(NamedTuple):
    """A tick in the list of the next ones."""

    tick: datetime
    schedule: str
    task: str


@dataclass(frozen=True, slots=True)
class Calendar:
    """The next day: a line for each schedule that ticks, by its name, and the list. `often`: schedules that the list
    leaves out, since they tick more than once an hour. `whole`: whether every schedule has its line."""

    lines: dict[str, Line]
    entries: Sequence[Entry]
    often: Sequence[str]
    whole: bool = True


def calendar_of(schedules: Sequence[FoundSchedule], clock: Callable[[], float] = monotonic) -> Calendar:
    """Return the next day of the schedules that tick now; none of one whose row cannot be read. What takes too long is
    left out. Ticks that were found are kept, so that the next calendar has more of them."""
    end = clock() + BUDGET
    lines: dict[str, Line] = {}
    entries: list[Entry] = []
    often: list[str] = []
    left = MOST_OF_ALL
    for stored in schedules:
        if not isinstance(stored, StoredSchedule) or not stored.state.active:
            continue
        if left <= 0 or clock() > end:
            return Calendar(lines, sorted(entries)[:LISTED], often, whole=False)
        ticks = _ticks(stored.state)
        left -= len(ticks)
        if len(ticks) > MOST_OF_ONE:
            lines[stored.name] = Line((), busy=True)
        elif ticks:
            lines[stored.name] = Line([_mark(tick, stored.state.now) for tick in ticks])
        if len(ticks) > OFTEN:
            often.append(stored.name)
        else:
            entries += (Entry(tick, stored.name, stored.schedule.job.task) for tick in ticks)
    return Calendar(lines, sorted(entries)[:LISTED], often)


def _ticks(state: ScheduleState) -> list[datetime]:
    """Return the ticks of a day from now on, at most one more than a line shows."""
    schedule, now = state.schedule, state.now
    begin = now - (now - _EPOCH) % SLACK
    ticks = _ticks_from(Span(schedule.plan, schedule.start, schedule.end), begin)
    return [tick for tick in ticks if now < tick <= now + DAY][: MOST_OF_ONE + 1]


@lru_cache(maxsize=2000)  # cron expressions are slow, and an open page looks at all of them again and again
def _ticks_from(span: Span, begin: datetime) -> tuple[datetime, ...]:
    """Return the ticks of a little more than a day; of many the first, as many as a line shows at any time within the
    slack, and one more."""
    found: list[datetime] = []
    tick, late = span.after(begin), 0
    while tick is not None and tick <= begin + SLACK + DAY and late <= MOST_OF_ONE:
        found.append(tick)
        late += tick > begin + SLACK
        tick = span.after(tick)
    return tuple(found)


def _mark(tick: datetime, now: datetime) -> Mark:
    words = f"{tick:%a %H:%M} UTC" if tick.second == 0 else f"{tick:%a %H:%M:%S} UTC"
    return Mark(round((tick - now) / DAY * (WIDTH - 2), 1), words)
