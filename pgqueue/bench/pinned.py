"""A pinned xmin: while a snapshot is open VACUUM removes no dead rows, and the worker's scans pass over them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg import sql

from pgqueue import db
from pgqueue.bench.bench import Bench, calls
from pgqueue.bench.measure import RATE, BenchFailed, CaseResult, Measurement, ratio
from pgqueue.bench.process import WorkerProcess
from pgqueue.bench.schema import Connection

TENTHS = 10
BACKLOG, CALL = 4000, 250  # how many jobs wait at most; how many are enqueued in a call
CLOCK: LiteralString = "select extract(epoch from clock_timestamp())::float8"
ENDED: LiteralString = """select width_bucket(extract(epoch from finished_at)::float8, %(start)s, %(end)s, 10), count(*)
from {} group by 1"""  # buckets 0 and 11 hold the jobs that ended before or after


class LoadGenerator:
    """Enqueues jobs as fast as the worker runs them, so that about BACKLOG of them always wait."""

    def __init__(self, bench: Bench, worker: WorkerProcess) -> None:
        self._bench = bench
        self._worker = worker
        self._sent = 0
        self._starved = 0
        self._samples = 0

    def run(self, seconds: float) -> None:
        """Keep the backlog up for so many seconds."""
        start = time.monotonic()
        while (past := time.monotonic() - start) < seconds:
            waiting = self._sent - self._worker.ran
            self._samples += 1
            self._starved += waiting < CALL
            if waiting < BACKLOG:
                self._bench.tasks.nothing.enqueue_many(calls(CALL))
                self._sent += CALL
            else:
                time.sleep(0.005)
            self._bench.show_progress(past, seconds)

    @property
    def starved(self) -> float:
        """The share of samples in which fewer jobs than one call's waited, so that the worker may have been idle."""
        return self._starved / max(self._samples, 1)


def pinned(bench: Bench) -> CaseResult:
    """Keep a worker busy while a snapshot is open; compare the rates of the first and the last tenth of the time."""
    bench.empty()
    bench.settle()
    with bench.worker() as worker:
        load, seconds = LoadGenerator(bench, worker), bench.scale.seconds
        load.run(min(1.0, seconds / 5))
        with _snapshot(bench.tasks.app.dsn):
            start = _clock(bench.conn)
            load.run(seconds)
            end = _clock(bench.conn)
    tenths = _tenths(bench, start, end)
    rates = [jobs * TENTHS / (end - start) for jobs in tenths]
    first, last = Measurement("first_tenth", rates[0], RATE), Measurement("last_tenth", rates[-1], RATE)
    whole = Measurement("rate", sum(tenths) / (end - start), RATE, min(rates), max(rates))
    notes = [f"a snapshot was held for {end - start:.0f} s: rows that died in that time stayed"]
    if load.starved > 0.1:
        notes.append(f"in {load.starved:.0%} of the samples the worker had little to do: enqueueing was the limit")
    return CaseResult("pinned", sum(tenths), (whole, first, last, ratio("last_to_first", last, first)), tuple(notes))


@contextmanager
def _snapshot(dsn: str) -> Iterator[None]:
    """Hold a snapshot on a connection of its own. Raises BenchFailed if the server ended it before."""
    with db.Database(dsn).connect("pgqueue bench snapshot") as conn:
        conn.execute("begin isolation level repeatable read")
        conn.execute("set local idle_in_transaction_session_timeout = 0")
        conn.execute("select 1")
        yield
        try:
            conn.execute("select 1")
        except psycopg.Error as error:
            raise BenchFailed("the server ended the transaction that held the snapshot: nothing was pinned") from error
        conn.execute("rollback")


def _clock(conn: Connection) -> float:
    row = conn.execute(CLOCK).fetchone()
    return float(row[0]) if row else 0.0


def _tenths(bench: Bench, start: float, end: float) -> list[int]:
    """Return how many jobs ended in each tenth of the time, by the database's clock."""
    query = sql.SQL(ENDED).format(sql.Identifier(bench.schema, "job_finished"))
    counts = dict(bench.conn.execute(query, {"start": start, "end": end}).fetchall())
    return [counts.get(tenth, 0) for tenth in range(1, TENTHS + 1)]
