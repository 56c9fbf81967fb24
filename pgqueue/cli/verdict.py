"""Whether the queues are well: what `pgqueue status --exit-code` says, for monitoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgqueue.cli import output
from pgqueue.jobs.patterns import serves
from pgqueue.queries.jobs.count import DeadCount, QueueCounts
from pgqueue.queries.pauses import Pause
from pgqueue.queries.workers import WorkerStatus

_LIVING = ("alive", "quiet", "stopping")  # status of a worker
_COUNTED_TOGETHER = {"running", "blocked", "dead"}  # phases that are cut off over all queues, not in each


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still well: how many seconds a due job may wait, how many dead letters an hour may bring; None: any."""

    max_age: float | None = None
    max_dead: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why the queues are not well; no reason if they are."""

    reasons: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"ok": not self.reasons, "reasons": self.reasons}

    def __str__(self) -> str:
        return "; ".join(self.reasons) or "ok"


def judge(queues: Sequence[QueueCounts], pauses: Sequence[Pause], dead: Sequence[DeadCount], limits: Limits) -> Verdict:
    """Return what is wrong: due jobs that wait for too long or that no worker takes, and too many dead letters.

    A metered job that waits for its turn is not late: its rules make it wait.
    """
    paused = {pause.name: describe_pause(pause) for pause in pauses if pause.kind == "queue"}
    reasons = []
    for queue in queues:
        waits = queue.oldest_due_seconds
        if waits is not None and limits.max_age is not None and waits > limits.max_age:
            why = f" ({paused[queue.queue]})" if queue.queue in paused else ""
            reasons.append(f"queue {queue.queue}: the oldest due job waits {output.age(waits)}{why}")
        if (waits is not None or queue.turn) and not queue.workers and not queue.paused:
            reasons.append(f"queue {queue.queue}: no worker takes its due jobs")
    brought = sum(one.jobs for one in dead)
    if limits.max_dead is not None and brought > limits.max_dead:
        most = max(dead, key=lambda one: one.jobs)
        reasons.append(f"{brought} dead letters within the last hour, {most.jobs} of them in queue {most.queue}")
    return Verdict(reasons)


def find_unknown(queue: str, queues: Sequence[QueueCounts], workers: Sequence[WorkerStatus]) -> list[str]:
    """Return the reason why a queue is not well that nobody knows, such as a misspelt one; none if it is known.

    `queues` are all that hold jobs. A quiet or stopping worker knows its queues, too.
    """
    if any(one.queue == queue for one in queues):
        return []
    if any(worker.status in _LIVING and serves(worker.queues, queue) for worker in workers):
        return []
    cut_off = any(_COUNTED_TOGETHER.intersection(one.at_least) for one in queues)
    counted = " that was counted (--exact counts all)" if cut_off else ""
    return [f"queue {queue}: no worker serves it, and it holds no job{counted}"]


def describe_pause(pause: Pause) -> str:
    """Return who has paused a queue or task, until when and why."""
    until = f" until {output.cell(pause.until)}" if pause.until else ""
    return f"{pause.kind} {pause.full_name} is paused by {pause.by or 'somebody'}{until}" + (
        f": {pause.why}" if pause.why else ""
    )
