"""A pinned xmin: while somebody's snapshot is open no dead row goes away, and the worker walks among them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg import sql

from pgqueue import db
from pgqueue.bench.measure import RATE, BenchFailed, Result, Value, ratio
from pgqueue.bench.process import WorkerProcess
from pgqueue.bench.schema import Connection
from pgqueue.bench.setting import Setting, calls

TENTHS = 10
BACKLOG, CALL = 4000, 250  # jobs that wait at most; jobs in a call
CLOCK: LiteralString = "select extract(epoch from clock_timestamp())::float8"
ENDED: LiteralString = """select width_bucket(extract(epoch from finished_at)::float8, %(start)s, %(end)s, 10), count(*)
from {} group by 1"""  # what ended before the start or after the end is outside 1 to 10


class Flow:
    """Jobs that come as fast as they go, so that about as many wait all the time."""

    def __init__(self, setting: Setting, worker: WorkerProcess) -> None:
        self._setting = setting
        self._worker = worker
        self._sent = 0
        self._dry = 0
        self._looks = 0

    def run(self, seconds: float) -> None:
        """Keep the flow up for so long."""
        start = time.monotonic()
        while (past := time.monotonic() - start) < seconds:
            waiting = self._sent - self._worker.ran
            self._looks += 1
            self._dry += waiting < CALL
            if waiting < BACKLOG:
                self._setting.measured.nothing.enqueue_many(calls(CALL))
                self._sent += CALL
            else:
                time.sleep(0.005)
            self._setting.tell(past, seconds)

    @property
    def dry(self) -> float:
        """In which share of the looks at it the worker may have had nothing to do."""
        return self._dry / max(self._looks, 1)


def pinned(setting: Setting) -> Result:
    """Keep jobs flowing under an open snapshot; compare the first tenth of the time with the last."""
    setting.empty()
    setting.settle()
    with setting.worker() as worker:
        flow, seconds = Flow(setting, worker), setting.scale.seconds
        flow.run(min(1.0, seconds / 5))
        with _snapshot(setting.measured.app.dsn):
            start = _clock(setting.conn)
            flow.run(seconds)
            end = _clock(setting.conn)
    tenths = _tenths(setting, start, end)
    rates = [jobs * TENTHS / (end - start) for jobs in tenths]
    first, last = Value("first_tenth", rates[0], RATE), Value("last_tenth", rates[-1], RATE)
    whole = Value("rate", sum(tenths) / (end - start), RATE, min(rates), max(rates))
    notes = [f"a snapshot was held for {end - start:.0f} s: what dies in that time stays"]
    if flow.dry > 0.1:
        notes.append(f"in {flow.dry:.0%} of the looks at it the worker had little to do: enqueueing was the limit")
    return Result("pinned", sum(tenths), (whole, first, last, ratio("last_to_first", last, first)), tuple(notes))


@contextmanager
def _snapshot(dsn: str) -> Iterator[None]:
    """Hold a snapshot on a connection of its own, and make sure that it was held to the end."""
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


def _tenths(setting: Setting, start: float, end: float) -> list[int]:
    """Return how many jobs ended in each tenth of the time, by the database's clock."""
    query = sql.SQL(ENDED).format(sql.Identifier(setting.schema, "job_finished"))
    counts = dict(setting.conn.execute(query, {"start": start, "end": end}).fetchall())
    return [counts.get(tenth, 0) for tenth in range(1, TENTHS + 1)]
