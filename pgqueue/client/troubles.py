"""What is wrong, in a sentence: on top of each page of the dashboard, and of `pgqueue top`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pgqueue.queries.dashboard import MOST_DEAD, Sign
from pgqueue.queries.queues import QueueLoad
from pgqueue.timing import in_words

LATE_AFTER = 60.0  # seconds that a due job of a queue may wait before the queue is behind
MOST_NAMED = 3  # names in one part of the sentence
MOST_PARTS = 6
WELL = "All is well."


@dataclass(frozen=True, slots=True)
class Trouble:
    """A part of the sentence: what is wrong, in words; the page of the dashboard on which it is mended, of one thing
    there if that has a `name`; and whether it is bad, or worth knowing."""

    words: str
    page: str
    is_bad: bool = True
    name: str | None = None


def troubles_of(queues: Iterable[QueueLoad], signs: Sequence[Sign], late_after: float = LATE_AFTER) -> list[Trouble]:
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


def well_in_words(queues: Sequence[QueueLoad]) -> str:
    """Say what goes on where nothing is wrong."""
    if not queues:
        return "No job waits or runs."
    many = f"{len(queues):,} queue{'s' if len(queues) > 1 else ''}"
    return f"{many}, {sum(queue.running for queue in queues):,} running, nothing waits too long."


def sentence(queues: Sequence[QueueLoad], troubles: Sequence[Trouble]) -> str:
    """Say in one sentence whether something is wrong, and what."""
    if not troubles:
        return f"{WELL} {well_in_words(queues)}"
    said = "; ".join(trouble.words for trouble in troubles[:MOST_PARTS])
    return f"{said[:1].upper()}{said[1:]}."


def _of_queues(words: str, queues: Sequence[QueueLoad], *, is_bad: bool = True) -> Iterator[Trouble]:
    if not queues:
        return
    worst = max(queues, key=lambda queue: queue.oldest_due_seconds or 0)
    names = sorted((queue.queue for queue in queues), key=lambda name: (name != worst.queue, name))
    said = words.format(f"{len(queues)} queues are" if len(queues) > 1 else f"queue {names[0]} is")
    if len(queues) > 1:
        said += f": {', '.join(names[:MOST_NAMED])}{' …' if len(names) > MOST_NAMED else ''}"
    if waits := int(worst.oldest_due_seconds or 0):
        said += f" (the oldest job waits {in_words(waits)})"
    yield Trouble(said, "queues", is_bad, names[0] if len(queues) == 1 else None)


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
