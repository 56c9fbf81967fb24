"""What a worker costs while it has nothing to do."""

import time
from typing import Any

import psycopg

from .results import Record
from .session import BenchSession

COMMITS = "select xact_commit + xact_rollback from pg_stat_database where datname = %s"


def idle(session: BenchSession, n: int) -> Record:
    """Measure CPU and statements of one worker on an empty queue. Each of its statements is a transaction of its own.

    The transactions of the database without a worker, those of autovacuum, are counted first and subtracted.
    """
    del n
    seconds = session.settings.seconds or 60.0
    database = session.fresh()
    database.close()  # the counter is read from another database, so that it counts only the worker
    rest = min(10.0, 2 * session.settings.warm)  # backends report their counts seconds late
    with session.timed(), session.server.connect() as conn:
        time.sleep(rest)
        others = _commits(conn, database.name, seconds)
        with session.working(session.options()) as worker:
            time.sleep(rest)
            began, used = time.time(), worker.cpu()
            all_of_them = _commits(conn, database.name, seconds)
            elapsed, used = time.time() - began, worker.cpu() - used
            alive, memory = worker.alive, worker.memory()
    return {
        "seconds": round(elapsed, 1), "cpu_percent": round(100 * used / elapsed, 2),
        "statements_s": round(all_of_them - others, 2), "others_s": round(others, 2),
        "rss_mib": round(memory / 2**20, 1), "ok": alive,
    }  # fmt: skip


def _commits(conn: psycopg.Connection[Any], database: str, seconds: float) -> float:
    """Return how many transactions a second end in a database."""
    (before,) = conn.execute(COMMITS, [database]).fetchall()
    began = time.time()
    time.sleep(seconds)
    (after,) = conn.execute(COMMITS, [database]).fetchall()
    return float((after[0] - before[0]) / (time.time() - began))
