"""A look: what a page may ask of the database, in one transaction that writes nothing and waits for nothing long."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg

from pgqueue import db
from pgqueue.app import App
from pgqueue.dashboard.access import Access
from pgqueue.dashboard.kept import KeptActivity, Key
from pgqueue.dashboard.pulse import LOOK_SECONDS, Pulse
from pgqueue.dashboard.redaction import Redaction
from pgqueue.dashboard.request import Request
from pgqueue.dashboard.settings import DashboardSettings
from pgqueue.queries import Queries, Query
from pgqueue.queries.dashboard import Span, Step

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a page: who looks, at what, and the connection on which the page reads. `wrong`: what is wrong in the
    form that was sent, which the page shows again."""

    app: App
    request: Request
    access: Access
    redaction: Redaction
    pulse: Pulse
    conn: db.Connection
    settings: DashboardSettings
    kept: KeptActivity
    wrong: str | None = None

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

    def activity(self, span: Span, *, queue: str | None = None, task: str | None = None) -> Sequence[Step] | None:
        """Return what workers counted in a span: of everything, a queue or a task; None if reading it takes too long.
        That of a long span may be a tenth of a step old."""
        key = Key(span, queue, task)
        steps = self.kept.get(key)
        if steps is None:
            steps = self.ask_if_quick(self.queries.dashboard.activity(span, queue=queue, task=task))
            if steps is not None:
                self.kept.keep(key, steps)
        return steps


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its template, what stands in it, its title, and the status of the answer."""

    template: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)
    status: int = 200


Shower = Callable[[Look, str], Page]


@contextmanager
def looking(app: App) -> Iterator[db.Connection]:
    """Give a connection in a transaction that writes nothing."""
    with app.backend.pools.connection() as conn, conn.transaction():
        db.run(conn, app.queries.dashboard.look(LOOK_SECONDS))
        yield conn
