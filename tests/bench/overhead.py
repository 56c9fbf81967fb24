"""What metrics and tracing cost a drain: each run drains without and with them, in turn, and compares."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

from .database import in_background
from .drain import emptied, filled
from .results import Record
from .session import BenchSession

TRACED = "tests.bench.traced:app"
EVERY = 1.0  # seconds between two scrapes: fifteen times as often as usual


def metrics(session: BenchSession, n: int) -> Record:
    """Drain with metrics that are scraped each second, and without."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return _compared(session, n, ["--metrics-port", str(port)], port=port)


def traced(session: BenchSession, n: int, *, task: str = "noop") -> Record:
    """Drain with tracing of which the sampler takes nothing, and without."""
    return _compared(session, n, ["-A", TRACED], task=task)  # of two -A the last one counts


def _compared(session: BenchSession, n: int, more: list[str], *, task: str = "noop", port: int | None = None) -> Record:
    """Drain in the order without, with, with, without, so that a drift of the machine meets both alike."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    record: Record = {}
    for on in (False, True, True, False):
        database = session.fresh()
        filled(session, database, task, n)
        with session.timed(), _scraped(port) if on and port else nullcontext():
            record = emptied(session, database, n, [*session.options(), *(more if on else [])])
        if not record["ok"]:
            return record
        rates[on].append(n / record["seconds"])
    without, with_it = (len(found) / sum(1 / rate for rate in found) for found in (rates[False], rates[True]))
    figures = {"jobs_s": round(with_it, 1), "jobs_s_without": round(without, 1)}
    return record | figures | {"overhead_percent": round(100 * (without / with_it - 1), 2)}


@contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Scrape a worker again and again, as Prometheus would."""

    def scrape(done: threading.Event) -> None:
        while not done.wait(EVERY):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                answer.read()

    with in_background(scrape):
        yield
