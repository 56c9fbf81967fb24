"""How fast waiting jobs are done: from the start of the first body until the store says that nothing is pending."""

import os
import time
from collections.abc import Callable

from . import machine, track
from .database import Database
from .processes import Worker
from .session import Record, Session

Watchdog = Callable[[Worker], None]


def filled(session: Session, database: Database, task: str, n: int) -> None:
    """Enqueue `n` jobs and let the server come to rest."""
    with session.timed():
        session.produce("bulk", task, n)
    with session.timed():
        database.settle()


def emptied(
    session: Session, database: Database, n: int, options: list[str], watch: Watchdog | None = None, caps: int = 1
) -> Record:
    """Let one command work until nothing is pending; tell how long it took, and whether each job ran exactly once."""
    database.pending()  # plan it before it matters
    with session.working(options) as worker:
        end = time.time() + session.settings.cap * caps
        _until_the_first(session, worker, end)
        rested = machine.rested()
        ended, pending = _until_nothing_is_pending(session, database, n, worker, watch, end)
        rested = machine.rested() - rested
    records = track.read(session.track)
    if not records:
        raise RuntimeError(f"no job ran: {session.log()}")
    seconds = ended - records[0].at
    distinct = len({record.i for record in records})
    return {
        "jobs": n, "seconds": round(seconds, 3), "jobs_s": round((n - pending) / seconds, 1), "pending": pending,
        "bodies": len(records), "distinct": distinct, "worker": " ".join(options),
        "idle_percent": round(100 * rested / (os.cpu_count() or 1) / seconds, 1),
        "ok": pending == 0 and len(records) == n == distinct,
    }  # fmt: skip


def _until_the_first(session: Session, worker: Worker, end: float) -> None:
    while not track.count(session.track) and time.time() < end and worker.alive:
        time.sleep(0.01)


def _until_nothing_is_pending(
    session: Session, database: Database, n: int, worker: Worker, watch: Watchdog | None, end: float
) -> tuple[float, int]:
    while track.count(session.track) < n and time.time() < end and worker.alive:
        time.sleep(0.01)
        if watch:
            watch(worker)
    while True:
        asked = time.time()  # what the answer does not see had ended by now
        pending = database.pending()
        if not pending or time.time() > end or not worker.alive:
            return asked, pending
        time.sleep(0.01)


def drain(
    session: Session, n: int, *, task: str = "noop", threads: bool = False, processes: int = 1, kept: bool = True,
    template: str | None = None,
) -> Record:  # fmt: skip
    """One run on a database of its own. Where jobs are kept, each must stand in the store as finished."""
    database = session.fresh(template)
    before = database.finished()
    filled(session, database, task, n)
    with session.timed():
        record = emptied(session, database, n, session.options(threads=threads, processes=processes))
    finished = database.finished() - before
    ok = record["ok"] and finished == (n if kept else 0)
    return record | {"finished": finished, "finished_before": before, "ok": ok}


def wal(session: Session, n: int) -> Record:
    """WAL of a job with its full history, from enqueue until it is finished; a checkpoint just before."""
    database = session.fresh()
    with session.timed():
        database.settle()
        before = database.wal()
        session.produce("bulk", "noop", n)
        enqueued = database.wal()
        record = emptied(session, database, n, session.options())
        after = database.wal()
    per_job = {"wal_bytes": round((after - before) / n), "wal_bytes_enqueue": round((enqueued - before) / n)}
    return record | per_job


def memory(session: Session, n: int) -> Record:
    """Memory of the worker over a long run: how far the second half strays from its middle, in percent."""
    database = session.fresh()
    filled(session, database, "noop", n)
    samples: list[tuple[float, float, int]] = []

    def watch(worker: Worker) -> None:
        now = time.time()
        if not samples or now - samples[-1][0] >= 0.25:
            samples.append((now, track.count(session.track), worker.memory()))

    with session.timed():
        record = emptied(session, database, n, session.options(), watch, caps=6)
    half = [rss for _, count, rss in samples if count >= n / 2] or [samples[-1][2]]
    middle = (max(half) + min(half)) / 2
    curve = [(int(count), round(rss / 2**20, 1)) for _, count, rss in samples]
    strays = round(100 * (max(half) - middle) / middle, 2)
    return record | {"rss_mib": round(middle / 2**20, 1), "rss_percent": strays, "rss_curve": thinned(curve, 200)}


def thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Leave out points so that at most about `most` are left, the last among them."""
    step = max(1, len(points) // most)
    return points[::step] + ([points[-1]] if (len(points) - 1) % step else [])


def quantile(ordered: list[float], q: float) -> float:
    """The value below which a share `q` of the ordered ones lies, in milliseconds if they are seconds."""
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000, 2)
