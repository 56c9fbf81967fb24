"""Enqueueing: one job in a transaction of its own, and many in one call."""

import time

from pgqueue.bench.bench import BULK, Bench, calls
from pgqueue.bench.measure import MS, RATE, CaseResult, Measurement, median_of, percentiles

SLICES = 10
WARM_UP = 20
NO_NOTIFY = "no worker waits: if one did, each commit would also notify it"


def enqueue_one(bench: Bench) -> CaseResult:
    """Enqueue jobs one by one, each with its own commit: a twentieth of --jobs, for at most --seconds."""
    bench.empty()
    nothing, wanted = bench.tasks.nothing, max(bench.scale.jobs // 20, SLICES)
    for number in range(WARM_UP):
        nothing.enqueue(number)
    took: list[float] = []
    end = time.perf_counter() + bench.scale.seconds
    while len(took) < wanted and (time.perf_counter() < end or len(took) < SLICES):
        start = time.perf_counter()
        nothing.enqueue(len(took))
        took.append(time.perf_counter() - start)
        bench.show_progress(len(took), wanted)
    rate = Measurement("rate", len(took) / sum(took), RATE, *_slices(took))
    return CaseResult("enqueue", len(took), (rate, *percentiles([1000 * each for each in took])), (NO_NOTIFY,))


def enqueue_bulk(bench: Bench) -> CaseResult:
    """Enqueue jobs with `enqueue_many`, 1000 in a call and a transaction."""
    bench.empty()
    size = min(BULK, bench.scale.jobs)
    count = bench.scale.jobs // size
    bench.tasks.nothing.enqueue_many(calls(size))
    took = []
    for number in range(count):
        arguments = calls(size)
        start = time.perf_counter()
        bench.tasks.nothing.enqueue_many(arguments)
        took.append(time.perf_counter() - start)
        bench.show_progress(number + 1, count)
    rate = Measurement("rate", size * count / sum(took), RATE, size / max(took), size / min(took))
    call = median_of("call", [1000 * each for each in took], MS)
    return CaseResult("bulk", size * count, (rate, call), (f"{size} jobs in a call",))


def _slices(took: list[float]) -> tuple[float, float]:
    """Return the lowest and the highest rate among the tenths of the calls."""
    size = len(took) // SLICES
    rates = [size / sum(took[index * size : (index + 1) * size]) for index in range(SLICES)]
    return min(rates), max(rates)
