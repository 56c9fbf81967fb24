"""Enqueueing: one job in a transaction of its own, and many in one call."""

import time

from pgqueue.bench.measure import MS, RATE, Result, Value, middle, percentiles
from pgqueue.bench.setting import BULK, Setting, calls

SLICES = 10
WARM_UP = 20
UNHEARD = "no worker waits: where one sleeps, a commit also notifies it"


def enqueue_one(setting: Setting) -> Result:
    """Enqueue jobs one by one, each committed before the next: a twentieth of --jobs, at most --seconds long."""
    setting.empty()
    nothing, wanted = setting.measured.nothing, max(setting.scale.jobs // 20, SLICES)
    for number in range(WARM_UP):
        nothing.enqueue(number)
    took: list[float] = []
    end = time.perf_counter() + setting.scale.seconds
    while len(took) < wanted and (time.perf_counter() < end or len(took) < SLICES):
        start = time.perf_counter()
        nothing.enqueue(len(took))
        took.append(time.perf_counter() - start)
        setting.tell(len(took), wanted)
    rate = Value("rate", len(took) / sum(took), RATE, *_slices(took))
    return Result("enqueue", len(took), (rate, *percentiles([1000 * each for each in took])), (UNHEARD,))


def enqueue_bulk(setting: Setting) -> Result:
    """Enqueue jobs with `enqueue_many`, 1000 in a call and a transaction."""
    setting.empty()
    size = min(BULK, setting.scale.jobs)
    count = setting.scale.jobs // size
    setting.measured.nothing.enqueue_many(calls(size))
    took = []
    for number in range(count):
        given = calls(size)
        start = time.perf_counter()
        setting.measured.nothing.enqueue_many(given)
        took.append(time.perf_counter() - start)
        setting.tell(number + 1, count)
    rate = Value("rate", size * count / sum(took), RATE, size / max(took), size / min(took))
    call = middle("call", [1000 * each for each in took], MS)
    return Result("bulk", size * count, (rate, call), (f"{size} jobs in a call",))


def _slices(took: list[float]) -> tuple[float, float]:
    """Return the slowest and the fastest rate among tenths of the calls."""
    size = len(took) // SLICES
    rates = [size / sum(took[index * size : (index + 1) * size]) for index in range(SLICES)]
    return min(rates), max(rates)
