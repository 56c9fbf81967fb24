"""The database of one run, and the questions that the runner asks it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, LiteralString

import psycopg

from .server import BenchServer

# Counts the jobs that have not durably ended. Run in a loop at the end of a timed run, so each part reads an index.
PENDING = """select (select count(*) from pgqueue.job_live where worker_id is not null)
    + (select count(*) from pgqueue.job_live
       where state = 'pending' and queue = 'default' and priority = 0 and run_at <= now())"""

METERED = """ + (select count(*) from pgqueue.job_live
       where state = 'blocked' and waits_for = 'turn' and queue = 'default' and run_at <= now())"""


@contextmanager
def in_background(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work(done)` in a thread within this context. It must return soon after `done` is set."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=(done,))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class BenchDatabase:
    """One database with pgqueue in it."""

    def __init__(self, server: BenchServer, name: str, dsn: str) -> None:
        self.server = server
        self.name = name
        self.dsn = dsn
        self.counts_metered = False  # among the pending jobs; off where some are to wait
        # Statistics are stale while a run drains a table: with them the planner would scan all of it at each poll.
        self.conn = psycopg.connect(dsn, autocommit=True, options="-c jit=off -c enable_seqscan=off")

    def value(self, statement: LiteralString, *params: Any) -> Any:
        """Return the one value of a statement."""
        row = self.conn.execute(statement, params or None).fetchone()
        return None if row is None else row[0]

    def pending(self) -> int:
        """Count the jobs that are due and have not ended."""
        return int(self.value(PENDING + METERED if self.counts_metered else PENDING))

    def finished(self) -> int:
        """Count the jobs kept as finished."""
        return int(self.value("select count(*) from pgqueue.job_finished"))

    def settle(self) -> None:
        """Bring every run to the same start: fresh statistics, and no dirty buffers that earlier inserts left."""
        self.conn.execute("vacuum analyze")
        self.conn.execute("checkpoint")

    def wal(self) -> int:
        """Return how many bytes of WAL the server has written, ever."""
        return int(self.value("select pg_current_wal_lsn() - '0/0'::pg_lsn"))

    def dead_rows(self) -> int:
        """Return how many dead rows the statistics know of."""
        return int(self.value("select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_user_tables"))

    @contextmanager
    def vacuumed(self, every: float | None) -> Iterator[None]:
        """VACUUM every so many seconds. Autovacuum looks once a minute, and runs are shorter."""
        if not every:
            yield
            return
        with in_background(partial(self._vacuum, every)):
            yield

    def _vacuum(self, every: float, done: threading.Event) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            while not done.wait(every):
                conn.execute("vacuum")

    @contextmanager
    def pinned(self, by: str | None) -> Iterator[None]:
        """Keep VACUUM from removing rows: by a `reader` with a snapshot, or a `writer` that has not committed."""
        if by is None:
            yield
            return
        self.conn.execute("create table if not exists public.bench_pin (n int)")
        with psycopg.connect(self.dsn) as conn:
            if by == "reader":
                conn.execute("set transaction isolation level repeatable read")
                conn.execute("select 1 from pgqueue.job_live limit 1")
            else:
                conn.execute("insert into public.bench_pin values (1)")
            yield
            conn.rollback()

    def close(self) -> None:
        """Disconnect."""
        self.conn.close()
