"""Families of samples, as prometheus_client has them, of the metrics that are declared."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from pgqueue.jobs.tally import BUCKETS, middle_of
from pgqueue.metrics.names import BY_NAME, JOB_SECONDS
from pgqueue.process.counters import STATEMENT_SECONDS, Durations

Sample: TypeAlias = tuple[tuple[str, ...], float]
# The bound below which each bucket of a tally falls, by its middle: so a duration may stand one bound too low or high.
_BOUND_OF = [bisect_left(JOB_SECONDS, middle_of(bucket)) for bucket in range(BUCKETS)]


def counter(name: str, samples: Iterable[Sample]) -> Family:
    """Return a counter with a value for each combination of labels."""
    declared = BY_NAME[name]
    family = CounterMetricFamily(name.removesuffix("_total"), declared.help, labels=declared.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def gauge(name: str, samples: Iterable[Sample]) -> Family:
    """Return a gauge with a value for each combination of labels."""
    declared = BY_NAME[name]
    family = GaugeMetricFamily(name, declared.help, labels=declared.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def job_histogram(name: str, counted: Iterable[tuple[tuple[str, ...], Sequence[int], float]]) -> Family:
    """Return a histogram of the buckets of a tally, and the seconds in all."""
    declared = BY_NAME[name]
    family = HistogramMetricFamily(name, declared.help, labels=declared.labels)
    for labels, counts, seconds in counted:
        per_bound = [0] * (len(JOB_SECONDS) + 1)
        for bound, count in zip(_BOUND_OF, counts, strict=True):
            per_bound[bound] += count
        family.add_metric(labels, _cumulative(JOB_SECONDS, per_bound), seconds)
    return family


def statement_histogram(name: str, durations: Durations) -> Family:
    """Return a histogram of the durations of statements."""
    family = HistogramMetricFamily(name, BY_NAME[name].help)
    family.add_metric((), _cumulative(STATEMENT_SECONDS, durations.counts), durations.seconds)
    return family


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    return [(name, float(count)) for name, count in zip(names, accumulate(counts), strict=True)]
