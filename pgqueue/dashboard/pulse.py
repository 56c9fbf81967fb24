"""The pulse: how the queues are, read at most every two seconds by a process, whoever looks and how often.

Of it is made the sentence on top of each page. And it says by what a page is out of date: a short digest for each
topic, which a page keeps and compares with the next one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pgqueue import db
from pgqueue.app import App
from pgqueue.client.troubles import Trouble, troubles_of, well_in_words
from pgqueue.dashboard.readings import Reader
from pgqueue.queries.dashboard import Sign
from pgqueue.queries.queues import QueueLoad

FRESH_SECONDS, OLD_SECONDS = 2.0, 10.0
LOOK_SECONDS = 2.0  # that one statement may take


@dataclass(frozen=True, slots=True)
class Pulse:
    """One reading. `versions`: a digest of what was read, by topic. `read_only`: the database takes no writes."""

    queues: Sequence[QueueLoad]
    signs: Sequence[Sign]
    troubles: Sequence[Trouble]
    versions: dict[str, str]
    read_only: bool

    @property
    def mood(self) -> str:
        """How it is in a word: well, warn or bad."""
        if any(trouble.is_bad for trouble in self.troubles):
            return "bad"
        return "warn" if self.troubles else "well"

    @property
    def calm(self) -> str:
        """What goes on where nothing is wrong, in words."""
        return well_in_words(self.queues)

    def names(self, kind: str) -> list[Sign]:
        """Return the signs of a kind."""
        return [sign for sign in self.signs if sign.kind == kind]

    def number(self, kind: str) -> int:
        """Return the number of the one sign of a kind."""
        return sum(int(sign.number or 0) for sign in self.names(kind))


class PulseReader:
    """Reads the pulse; a reading serves everybody for two seconds, or until there is a newer one."""

    def __init__(self, app: App, late_after: float) -> None:
        self._app = app
        self._late_after = late_after
        self._reader = Reader(self._read, FRESH_SECONDS, OLD_SECONDS, beside=partial(self._read, opens=False))
        self._beats = 0

    def now(self) -> Pulse:
        """Return a reading that is at most two seconds old, or that of a moment before where a new one takes its time.
        Raises what reading the database raises."""
        return self._reader.now()

    def forget(self) -> None:
        """Read anew next time: somebody has changed something, and wants to see it."""
        self._reader.forget()

    def _read(self, *, opens: bool = True) -> Pulse:
        queries = self._app.queries
        with self._app.backend.pools.connection(opens=opens) as conn, conn.transaction():
            read_only = db.run(conn, queries.dashboard.look(LOOK_SECONDS))
            queues = db.run(conn, queries.queues.list())
            signs = db.run(conn, queries.dashboard.signs())
        self._beats += 1
        return Pulse(
            queues, signs, troubles_of(queues, signs, self._late_after), self._versions(queues, signs), read_only
        )

    def _versions(self, queues: Sequence[QueueLoad], signs: Sequence[Sign]) -> dict[str, str]:
        of = {kind: [sign for sign in signs if sign.kind == kind] for kind in ("dead", "schedule", "operation", "job")}
        workers = [sign for sign in signs if sign.kind in ("worker", "process")]
        activity = [sign for sign in signs if sign.kind == "activity"]
        topics: dict[str, object] = {
            "queues": queues,
            "workers": [(sign.kind, sign.name, sign.word) for sign in workers],
            "dead": of["dead"],
            "schedules": (of["schedule"], activity),
            "operations": of["operation"],
            "activity": activity,
            "jobs": (
                [(q.queue, q.due, q.running, q.scheduled, q.turn) for q in queues],
                of["job"],
                of["dead"],
                activity,
            ),
            "beat": self._beats,
        }
        return {topic: _digest(seen) for topic, seen in topics.items()}


def _digest(seen: object) -> str:
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:12]
