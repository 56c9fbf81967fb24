"""A look: what a page may ask of the database, in one transaction that writes nothing and waits for nothing long."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import psycopg

from pgqueue import db
from pgqueue.app import App
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.pulse import FRESH_SECONDS, LOOK_SECONDS, OLD_SECONDS, Pulse
from pgqueue.dashboard.readings import Patience, Reader, Readers, Reading, Unread
from pgqueue.dashboard.redaction import Redaction
from pgqueue.dashboard.request import Request
from pgqueue.dashboard.settings import DashboardSettings
from pgqueue.queries import Queries, Query
from pgqueue.queries.activity import QueueRate
from pgqueue.queries.dashboard import DaySoFar, Span, Step, Wait

T = TypeVar("T")
TODAY_SECONDS = 60.0
TODAY_PATIENCE = 0.02  # seconds: where many jobs end, to count those of a day takes longer than any page may wait
LONG_STEP = 300.0  # seconds: what has longer steps is a day or more
MOST_COUNTED = 1000  # jobs of a queue that became due


class Activity(NamedTuple):
    """What workers counted; None where reading it takes too long, is not done yet (`is_coming`), or failed: `why`."""

    steps: Sequence[Step] | None
    is_coming: bool = False
    why: str | None = None


class Today(NamedTuple):
    """Today so far, and the same part of the same weekday a week ago; None where nothing ended, or that is not read
    yet (`is_coming`), or cannot be: `why`."""

    now: DaySoFar | None = None
    before: DaySoFar | None = None
    is_coming: bool = False
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a page: who looks, at what, and the connection on which the page reads. `wrong`: what is wrong in the
    form that was sent, which the page shows again. `patience`: for what is read beside it, all together."""

    app: App
    request: Request
    access: Access
    redaction: Redaction
    pulse: Pulse
    conn: db.Connection
    settings: DashboardSettings
    readers: Readers
    wrong: str | None = None
    patience: Patience = field(default_factory=Patience)

    @property
    def queries(self) -> Queries:
        """The statements of the app's schema."""
        return self.app.queries

    def ask(self, query: Query[T]) -> T:
        """Run a statement."""
        return db.run(self.conn, query)

    def ask_if_quick(self, query: Query[T]) -> T | None:
        """Run a statement that the page can do without; None if it takes too long."""
        try:
            with self.conn.transaction():
                return self.ask(query)
        except psycopg.errors.QueryCanceled:
            return None

    def activity(self, span: Span, *, queue: str | None = None, task: str | None = None) -> Activity:
        """Return what workers counted in a span: of everything, a queue or a task. That of a long span is read beside
        the page, and may be a tenth of a step old."""
        read = partial(self.queries.dashboard.activity, span, queue=queue, task=task)
        if span.step < LONG_STEP:
            return Activity(self.ask_if_quick(read()))
        days = [read(part=part) for part in span.days]
        at_most = 0.0 if len(days) > 1 else None  # they take longer than a page may
        found = self._soon((span, queue, task), days, span.step / 10, span.step, at_most)
        if isinstance(found, Unread):
            return Activity(None, why=found.why)
        if found is None:
            return Activity(None, is_coming=True)
        return Activity(None if found.value is None else [step for day in found.value for step in day])

    def waits(self, span: Span) -> dict[str, list[Wait]] | None:
        """Return how long attempts had waited in a span, by queue, as it was a tenth of a step ago at most; None if
        that is not known yet."""
        found = self._soon(("waits", span), [self.queries.dashboard.waits(span)], span.step / 10, span.step)
        if not isinstance(found, Reading) or found.value is None:
            return None
        waits: dict[str, list[Wait]] = {}
        for wait in found.value[0]:
            waits.setdefault(wait.queue, []).append(wait)
        return waits

    def begin_today(self) -> None:
        """Let what `today` returns be read while the page asks for other things."""
        self._today(0.0)

    def today(self) -> Today:
        """Return what ended today and on the same weekday a week ago, as it was two minutes ago at most."""
        return self._today(TODAY_PATIENCE)

    def _today(self, at_most: float) -> Today:
        days = [self.queries.dashboard.day_so_far(weeks) for weeks in (0, 1)]
        found = self._soon("today", days, TODAY_SECONDS, 2 * TODAY_SECONDS, at_most)
        if isinstance(found, Unread):
            return Today(why=found.why)
        if found is None:
            return Today(is_coming=True)
        if found.value is None:
            return Today(why="it takes too long")
        today, before = (day if day.ended else None for day in found.value)
        return Today(today, before)

    def rates(self) -> dict[str, QueueRate] | None:
        """Return how many attempts end and jobs become due in each queue, as it was seconds ago at most; None if that
        takes too long to read."""
        found = self._soon("rates", [self.queries.activity.rates(MOST_COUNTED)], FRESH_SECONDS, OLD_SECONDS)
        if not isinstance(found, Reading) or found.value is None:
            return None
        return {rate.queue: rate for rate in found.value[0]}

    def _soon(
        self, key: Hashable, queries: Sequence[Query[T]], fresh: float, old: float, at_most: float | None = None
    ) -> Reading[list[T] | None] | Unread | None:
        """Return what statements give that are run beside the page. The page waits `at_most` so many seconds for it,
        and no longer than the patience that it has left."""
        read, threads = partial(_read, self.app, queries), self.readers.threads
        reader = self.readers.of(key, lambda: Reader(read, fresh, old, threads=threads))
        return self.patience.wait(reader.soon, at_most)


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its template, what stands in it, its title, and the status of the answer."""

    template: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)
    status: int = 200


Shower = Callable[[Look, str], Page]


def _read(app: App, queries: Sequence[Query[T]]) -> list[T] | None:
    """Run statements in a look of their own; None if one takes too long. An app that was closed meanwhile stays so."""
    try:
        with looking(app, opens=False) as conn:
            return [db.run(conn, query) for query in queries]
    except psycopg.errors.QueryCanceled:
        return None


@contextmanager
def looking(app: App, *, opens: bool = True) -> Iterator[db.Connection]:
    """Give a connection in a transaction that writes nothing."""
    with app.backend.pools.connection(opens=opens) as conn, conn.transaction():
        db.run(conn, app.queries.dashboard.look(LOOK_SECONDS))
        yield conn
