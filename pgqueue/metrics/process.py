"""The metrics of one process: what it did, as it has counted it anyway."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as Late
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pgqueue.jobs.tally import BUCKETS, OUTCOMES
from pgqueue.metrics.families import counter, gauge, job_histogram, statement_histogram
from pgqueue.process.counters import LoopLag, ProcessReading
from pgqueue.process.health import CANNOT_LISTEN, cannot_listen

log = logging.getLogger("pgqueue")
PATIENCE = 1.0  # seconds for which a scrape waits for an event loop that is blocked; then it has the last reading
COUNTED = ("succeeded", "retried", "failed", "cancelled", "snoozed", "released", "expired", "skipped")


class ProcessMetrics(Collector):
    """Collects the metrics of a worker or scheduler, from threads beside its event loop.

    `read` is called on the event loop, and returns None while there is nothing to tell.
    """

    def __init__(self, read: Callable[[], ProcessReading | None], lag: LoopLag) -> None:
        self._read = read
        self._lag = lag
        self._loop = asyncio.get_running_loop()
        self._last: ProcessReading | None = None

    def collect(self) -> Iterator[Family]:
        """Yield the families of one reading."""
        reading = self._reading()
        if reading is not None:
            yield from families(reading, self._lag.blocked_seconds)

    def _reading(self) -> ProcessReading | None:
        ask = self._ask()
        try:
            self._last = asyncio.run_coroutine_threadsafe(ask, self._loop).result(PATIENCE)
        except Late:  # the loop is blocked
            log.debug("the event loop is blocked: a scrape gets the last reading")
        except RuntimeError:  # it is closed
            ask.close()
        return self._last

    async def _ask(self) -> ProcessReading | None:
        return self._read()


def families(reading: ProcessReading, blocked_seconds: float) -> Iterator[Family]:
    """Yield the families of samples of a reading."""
    yield counter("pgqueue_heartbeat_failures_total", [((), reading.heartbeat_failures)])
    yield counter("pgqueue_loop_blocked_seconds_total", [((), blocked_seconds)])
    if reading.slots is None or reading.claims is None or reading.resolves is None:
        return
    yield gauge("pgqueue_worker_slots", [((), reading.slots)])
    yield gauge("pgqueue_worker_slots_busy", [((), reading.busy)])
    yield counter("pgqueue_stale_writes_total", [((), reading.stale_writes)])
    yield statement_histogram("pgqueue_claim_seconds", reading.claims)
    yield statement_histogram("pgqueue_resolve_seconds", reading.resolves)
    yield from _of_jobs(reading)


def _of_jobs(reading: ProcessReading) -> Iterator[Family]:
    finished: defaultdict[tuple[str, ...], int] = defaultdict(int)
    runs: dict[tuple[str, ...], tuple[list[int], float]] = {}
    waits: dict[tuple[str, ...], tuple[list[int], float]] = {}
    rescued = 0
    for (task, queue, verb), count in reading.ended:
        if verb.startswith("rescue"):
            rescued += count.jobs
        if (outcome := OUTCOMES[verb]) not in COUNTED:
            continue  # it was parked, or put back for another worker: nothing has run
        finished[queue, task, outcome] += count.jobs
        for into, counts, seconds in (
            (runs, count.run_counts, count.run_seconds),
            (waits, count.wait_counts, count.wait_seconds),
        ):
            known, before = into.get((queue, task), ([0] * BUCKETS, 0.0))
            into[queue, task] = [a + b for a, b in zip(known, counts, strict=True)], before + seconds
    yield counter("pgqueue_jobs_rescued_total", [((), rescued)])
    yield counter("pgqueue_jobs_finished_total", finished.items())
    for name, counted in (("pgqueue_job_run_seconds", runs), ("pgqueue_job_wait_seconds", waits)):
        ran = ((labels, counts, seconds) for labels, (counts, seconds) in counted.items() if any(counts))
        yield job_histogram(name, ran)


class MetricsServer:
    """Answers scrapes with the metrics of this process, in threads of its own."""

    def __init__(self, read: Callable[[], ProcessReading | None]) -> None:
        self._read = read
        self._lag = LoopLag()
        self._server: WSGIServer | None = None

    def start(self, host: str, port: int) -> int:
        """Listen, on an event loop; return the port, which the system chooses for port 0. Raises ConfigError."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(ProcessMetrics(self._read, self._lag))
        ProcessCollector(registry=registry)
        try:
            self._server, _ = start_http_server(port, host, registry)
        except CANNOT_LISTEN as error:
            raise cannot_listen("metrics", host, port, error) from None
        self._lag.start()
        port = int(self._server.server_address[1])
        log.info("metrics on http://%s:%d/metrics", host, port)
        return port

    def close(self) -> None:
        """Listen no more."""
        self._lag.stop()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
