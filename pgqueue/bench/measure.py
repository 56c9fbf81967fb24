"""Measurements as values, and the arithmetic that makes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pgqueue.errors import PgqueueError

RATE, MS = "jobs/s", "ms"


class BenchFailed(PgqueueError):
    """A case could not be measured, or the bench could not drop its schema."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with its unit. `low` and `high` are the extremes of the numbers it summarises."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The measurements of one case. `n` counts the calls or jobs that were measured, without those of the warm-up."""

    case: str
    n: int
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """Jobs whose end was written in one transaction: when it began, by the database's clock, and how many jobs."""

    at: float
    jobs: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the sorted values that a `share` of them do not exceed (nearest rank)."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def percentiles(values: Sequence[float], shares: Sequence[int] = (50, 95, 99)) -> tuple[Measurement, ...]:
    """Return percentiles of values in milliseconds; the first carries the extremes."""
    ordered = sorted(values)
    first, *others = [(f"p{share}", percentile(ordered, share / 100), MS) for share in shares]
    return (Measurement(*first, ordered[0], ordered[-1]), *(Measurement(*other) for other in others))


def steady_rate(batches: Sequence[FinishedBatch], warm_up: int) -> tuple[float, int]:
    """Return jobs a second after the first `warm_up` jobs, and how many jobs were counted.

    The clock runs from one transaction to another and never starts within a batch: the jobs of a batch end together, so
    the rest of a batch would seem to take no time.
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


def median_of(name: str, values: Sequence[float], unit: str) -> Measurement:
    """Return the median with the extremes; a single value has none."""
    spread = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Measurement(name, median(values), unit, *spread)


def ratio(name: str, value: Measurement, base: Measurement) -> Measurement:
    """Return `value` divided by `base`. The extremes are those of the worst and the best pairing."""
    if not base.value:
        raise BenchFailed("no job ended in the time that is compared with: give more --seconds")
    quotient = value.value / base.value
    if value.low is None or value.high is None or not base.low or not base.high:
        return Measurement(name, quotient, "x")
    return Measurement(name, quotient, "x", value.low / base.high, value.high / base.low)
