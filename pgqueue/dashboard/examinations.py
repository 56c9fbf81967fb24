"""What the doctor found: an examination asks the server much, so whoever looks sees one that was made before."""

from collections.abc import Callable
from typing import NamedTuple

from pgqueue.app import App
from pgqueue.dashboard.readings import Reader, Reading, ReadingThreads, Unread
from pgqueue.doctor import Report
from pgqueue.timing import monotonic

EXAMINED_SECONDS = 60.0  # that an examination serves whoever looks at its page
SEEN_SECONDS = 600.0  # that it serves pages which show its worst findings beside other things
OLD_SECONDS = 3600.0  # until which these show it while the next one is made


class Examination(NamedTuple):
    """A report, and when the examination had ended, by the clock of this process."""

    report: Report
    at: float


class Examinations:
    """The examinations of one dashboard. `threads`: those that read beside pages."""

    def __init__(self, app: App, threads: ReadingThreads, clock: Callable[[], float] = monotonic) -> None:
        self._app = app
        self._clock = clock
        self._last: Examination | None = None
        self._exact = Reader(self._examine, EXAMINED_SECONDS, EXAMINED_SECONDS, clock)
        self._beside = Reader(self._exact.now, EXAMINED_SECONDS, OLD_SECONDS, clock, threads=threads)

    def report(self) -> tuple[Report, float]:
        """Return a report that is at most a minute old, and how many seconds old it is. Waits for it."""
        found = self._exact.now()
        return found.report, self._clock() - found.at

    def soon(self) -> tuple[Report, float] | Unread | None:
        """Return the last report and its age. One that is older than ten minutes is made anew beside the page; None
        where there is none yet."""
        last = self._last
        if last is None or self._clock() - last.at >= SEEN_SECONDS:
            found = self._beside.soon(0.0)  # it takes longer than a page may
            if not isinstance(found, Reading):
                return found
            last = found.value
        return last.report, self._clock() - last.at

    def _examine(self) -> Examination:
        self._last = Examination(self._app.doctor(), self._clock())
        return self._last
