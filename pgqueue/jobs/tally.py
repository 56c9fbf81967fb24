"""How many attempts ended in which way, and how long they waited and ran: what a worker counts in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import Resolution

# The outcome of an attempt in `activity`, by the verb that ended it.
OUTCOMES = {
    "succeed": "succeeded",
    "retry": "retried",
    "snooze": "snoozed",
    "release": "released",
    "park": "parked",
    "meter": "released",
    "replace": "replaced",
    "dead_letter": "failed",
    "withdraw": "cancelled",
    "rescue": "rescued",
    "rescue_spent": "failed",
    "rescue_cancelled": "cancelled",
    "expire": "expired",
    "skip": "skipped",  # by the rule of a full bucket, or because its workflow cannot run it any more
    "cancel": "cancelled",  # before it ran, with its workflow
}
UNKNOWN = "unknown"  # what metrics call every task that the app has not registered
BUCKETS = 128  # the last ones are for centuries
SMALL = 64  # attempts counted at once, up to which each goes into buckets
SHARE = 8  # the attempts for which one of many stands


def bucket_of(seconds: float) -> int:
    """Return the number k of the bucket of a duration: of 2^((k-1)/2) to 2^(k/2) microseconds, 0 for less than one.

    A bucket is 1.41 times as wide as the one before, so its middle is at most 19 % off.
    """
    return int((seconds * 1e6) ** 2).bit_length()  # of the square: twice the logarithm


def middle_of(bucket: int) -> float:
    """Return the seconds in the middle of a bucket, by their logarithm."""
    return float(2 ** ((bucket - 0.5) / 2)) / 1e6


def _no_counts() -> list[int]:
    return [0] * BUCKETS


@dataclass(slots=True)
class Count:
    """The attempts of one task and queue that ended in one way; by bucket, those that had begun."""

    jobs: int = 0
    run_seconds: float = 0.0
    wait_seconds: float = 0.0
    run_counts: list[int] = field(default_factory=_no_counts)
    wait_counts: list[int] = field(default_factory=_no_counts)


Key = tuple[str, str, str]  # task, queue, verb


class Tally:
    """Counts of attempts by task, queue and verb."""

    def __init__(self) -> None:
        self._counts: dict[Key, Count] = {}
        self._offset = 0  # so that it is not always the first job of a batch

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, ended: Sequence[tuple[ClaimedJob, Resolution]]) -> None:
        """Count attempts that have ended.

        Of more than 64 at once, which takes thousands of jobs a second, every eighth goes into buckets, for eight.
        """
        key: Key | None = None
        count = Count()
        for job, resolution in ended:
            if (job.task, job.queue, resolution.verb) != key:
                key = job.task, job.queue, resolution.verb
                count = self._of(key)
            count.jobs += 1
            if job.began:  # otherwise it was given back before it ran
                count.run_seconds += job.ended - job.began
                count.wait_seconds += job.began - job.due
        share = 1 if len(ended) <= SMALL else SHARE
        self._offset = (self._offset + 1) % SHARE
        for job, resolution in ended[self._offset % share :: share]:
            if job.began:
                count = self._of((job.task, job.queue, resolution.verb))
                count.run_counts[bucket_of(job.ended - job.began)] += share
                count.wait_counts[bucket_of(job.began - job.due)] += share

    def add_unrun(self, task: str, queue: str, verb: str) -> None:
        """Count a job that this worker has moved without having run it."""
        self._of((task, queue, verb)).jobs += 1

    def _of(self, key: Key) -> Count:
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = Count()
        return count

    def take(self) -> list[tuple[Key, Count]]:
        """Return the counts and begin anew."""
        counts, self._counts = self._counts, {}
        return list(counts.items())

    def counts(self) -> list[tuple[Key, Count]]:
        """Return copies of the counts."""
        return [(key, replace(count)) for key, count in self._counts.items()]

    def merge(self, counts: Iterable[tuple[Key, Count]]) -> None:
        """Add counts of another tally, or those that could not be written."""
        for key, count in counts:
            total = self._of(key)
            total.jobs += count.jobs
            total.run_seconds += count.run_seconds
            total.wait_seconds += count.wait_seconds
            total.run_counts = [a + b for a, b in zip(total.run_counts, count.run_counts, strict=True)]
            total.wait_counts = [a + b for a, b in zip(total.wait_counts, count.wait_counts, strict=True)]


def array_of(counts: Sequence[int]) -> str:
    """Return counts as a Postgres array whose subscripts are the numbers of the buckets, from the first used one on."""
    used = [bucket for bucket, count in enumerate(counts) if count]
    if not used:
        return "{}"
    return f"[{used[0]}:{used[-1]}]={{{','.join(map(str, counts[used[0] : used[-1] + 1]))}}}"
