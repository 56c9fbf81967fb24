"""What is measured, as values, and the arithmetic behind it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pgqueue.errors import PgqueueError

RATE, MS = "jobs/s", "ms"


class BenchFailed(PgqueueError):
    """A case could not be measured, or the bench could not clean up."""


@dataclass(frozen=True, slots=True)
class Value:
    """One number with its unit; `low` and `high` are the extremes of what it summarises. JSON calls it by its name."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a case gave. `n` counts what was really measured, warm-up left out."""

    case: str
    n: int
    values: tuple[Value, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs whose end was written in one transaction: the database's time, and how many."""

    at: float
    jobs: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of the sorted values do not exceed (nearest rank)."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def percentiles(values: Sequence[float], shares: Sequence[int] = (50, 95, 99)) -> tuple[Value, ...]:
    """Return percentiles of milliseconds, the first with the extremes."""
    ordered = sorted(values)
    first, *others = [(f"p{share}", percentile(ordered, share / 100), MS) for share in shares]
    return (Value(*first, ordered[0], ordered[-1]), *(Value(*other) for other in others))


def steady_rate(batches: Sequence[Batch], warm_up: int) -> tuple[float, int]:
    """Return jobs a second after the first `warm_up` jobs, and how many that was.

    Counts from one transaction to another and never begins within a batch: its jobs end together, so the rest of one
    would look as if it had taken no time.
    """
    begun, start = 0, 0
    while start < len(batches) and begun + batches[start].jobs < warm_up:
        begun += batches[start].jobs
        start += 1
    counted = batches[start + 1 :]
    if not counted or counted[-1].at <= batches[start].at:
        raise BenchFailed("too few jobs for a rate: give more --jobs")
    jobs = sum(batch.jobs for batch in counted)
    return jobs / (counted[-1].at - batches[start].at), jobs


def middle(name: str, values: Sequence[float], unit: str) -> Value:
    """Return the median with the extremes; without them where there is only one value."""
    spread = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Value(name, median(values), unit, *spread)


def ratio(name: str, over: Value, under: Value) -> Value:
    """Return one value in parts of another. Its extremes are those of the worst and the best pairing."""
    if not under.value:
        raise BenchFailed("nothing was done in the time that others are compared with: give more --seconds")
    value = over.value / under.value
    if over.low is None or over.high is None or not under.low or not under.high:
        return Value(name, value, "x")
    return Value(name, value, "x", over.low / under.high, over.high / under.low)
