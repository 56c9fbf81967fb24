"""The pulse: how the queues are, read at most every two seconds by a process, whoever looks and how often.

Of it is made the sentence on top of each page. And it says by what a page is out of date: a short digest for each
topic, which a page keeps and compares with the next one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgqueue import db
from pgqueue.app import App
from pgqueue.dashboard.readings import Reader
from pgqueue.dashboard.request import slug
from pgqueue.queries.dashboard import MOST_DEAD, Sign
from pgqueue.queries.queues import QueueLoad
from pgqueue.timing import in_words

FRESH_SECONDS, OLD_SECONDS = 2.0, 10.0
LOOK_SECONDS = 2.0  # that one statement may take
MOST_NAMED = 3  # names in one part of the sentence


@dataclass(frozen=True, slots=True)
class Trouble:
    """A part of the sentence: what is wrong, in words, and the page on which it is mended."""

    words: str
    page: str
    is_bad: bool = True


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
        self._reader = Reader(self._read, FRESH_SECONDS, OLD_SECONDS)
        self._beats = 0

    def now(self) -> Pulse:
        """Return a reading that is at most two seconds old, or that of a moment before where a new one takes its time.
        Raises what reading the database raises."""
        return self._reader.now()

    def forget(self) -> None:
        """Read anew next time: somebody has changed something, and wants to see it."""
        self._reader.forget()

    def _read(self) -> Pulse:
        queries = self._app.queries
        with self._app.backend.pools.connection() as conn, conn.transaction():
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


def troubles_of(queues: Iterable[QueueLoad], signs: Sequence[Sign], late_after: float) -> list[Trouble]:
    """Return what is wrong, the worst first."""
    queues = list(queues)
    due = [queue for queue in queues if queue.due or queue.turn]
    unserved = [queue for queue in due if not queue.workers and queue.paused_at is None]
    late = [queue for queue in due if queue.paused_at is None and (queue.oldest_due_seconds or 0) > late_after]
    return [
        *_of_queues("{} without a worker", unserved),
        *_of_queues("{} behind", [queue for queue in late if queue not in unserved]),
        *_of_signs(signs),
        *_of_queues("{} paused while jobs are due", [q for q in due if q.paused_at is not None], is_bad=False),
    ]


def _of_queues(words: str, queues: Sequence[QueueLoad], *, is_bad: bool = True) -> Iterator[Trouble]:
    if not queues:
        return
    worst = max(queues, key=lambda queue: queue.oldest_due_seconds or 0)
    names = sorted((queue.queue for queue in queues), key=lambda name: (name != worst.queue, name))
    said = words.format(f"{len(queues)} queues are" if len(queues) > 1 else f"queue {names[0]} is")
    if len(queues) > 1:
        said += f": {', '.join(names[:MOST_NAMED])}{' …' if len(names) > MOST_NAMED else ''}"
    if worst.oldest_due_seconds:
        said += f" (the oldest job waits {in_words(int(worst.oldest_due_seconds))})"
    yield Trouble(said, f"queues/{slug(names[0])}" if len(queues) == 1 else "queues", is_bad)


def _of_signs(signs: Sequence[Sign]) -> Iterator[Trouble]:
    lost = [sign for sign in signs if sign.kind == "worker"]
    if lost:
        said = f"process {lost[0].name} was lost" if len(lost) == 1 else f"{len(lost)} processes were lost"
        yield Trouble(said, "workers")
    late = [sign for sign in signs if sign.kind == "schedule"]
    if late:
        since = in_words(int(late[0].number or 0))
        said = f"schedule {late[0].name} is" if len(late) == 1 else f"{len(late)} schedules are"
        yield Trouble(f"{said} late by {since}", "schedules")
    dead = sum(int(sign.number or 0) for sign in signs if sign.kind == "dead")
    if dead:
        count = f"{dead}+" if dead >= MOST_DEAD else str(dead)
        yield Trouble(f"{count} {'job' if dead == 1 else 'jobs'} failed for good within the hour", "failures", False)


def _digest(seen: object) -> str:
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:12]
