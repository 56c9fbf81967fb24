"""What a worker costs that has nothing to do."""

import time

from .session import Record, Session

COMMITS = "select xact_commit + xact_rollback from pg_stat_database where datname = %s"


def idle(session: Session, n: int) -> Record:
    """CPU and statements of one worker on an empty queue. Each of its statements is a transaction of its own."""
    del n
    seconds = session.settings.seconds or 60.0
    database = session.fresh()
    database.close()  # the counter is read from another database, so that nothing but the worker is in it
    # Backends hand in their counts seconds late, so autovacuum could slip in; it opens a handful of transactions.
    with session.timed(), session.working(session.options()) as worker, session.server.connect() as conn:
        time.sleep(min(10.0, 2 * session.settings.warm))
        before = conn.execute(COMMITS, [database.name]).fetchone()
        began, used = time.time(), worker.cpu()
        time.sleep(seconds)
        elapsed, used = time.time() - began, worker.cpu() - used
        after = conn.execute(COMMITS, [database.name]).fetchone()
        alive, memory = worker.alive, worker.memory()
    assert before
    assert after
    return {
        "seconds": round(elapsed, 1), "cpu_percent": round(100 * used / elapsed, 2),
        "statements_s": round((after[0] - before[0]) / elapsed, 2), "rss_mib": round(memory / 2**20, 1), "ok": alive,
    }  # fmt: skip
