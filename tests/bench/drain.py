"""How fast waiting jobs are run: from the start of the first body until the database says that none is pending."""

import os
import time
from collections.abc import Callable

from . import machine, track
from .database import BenchDatabase
from .processes import MeasuredWorker
from .results import Record
from .session import BenchSession

FORGETS = "noop_forget"  # the task with retention=0
Watch = Callable[[MeasuredWorker], None]  # called again and again while a drain runs


def filled(session: BenchSession, database: BenchDatabase, task: str, n: int) -> None:
    """Enqueue `n` jobs and let the server settle."""
    with session.timed():
        session.produce("bulk", task, n)
    with session.timed():
        database.settle()


def emptied(
    session: BenchSession,
    database: BenchDatabase,
    n: int,
    options: list[str],
    watch: Watch | None = None,
    caps: int = 1,
) -> Record:
    """Run a worker until nothing is pending; return how long that took, and whether each job ran exactly once."""
    database.pending()  # plans the statement before the clock runs
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


def _until_the_first(session: BenchSession, worker: MeasuredWorker, end: float) -> None:
    while not track.count(session.track) and time.time() < end and worker.alive:
        time.sleep(0.01)


def _until_nothing_is_pending(
    session: BenchSession, database: BenchDatabase, n: int, worker: MeasuredWorker, watch: Watch | None, end: float
) -> tuple[float, int]:
    while track.count(session.track) < n and time.time() < end and worker.alive:
        time.sleep(0.01)
        if watch:
            watch(worker)
    while True:
        asked = time.time()  # the jobs that the answer does not count had ended by now
        pending = database.pending()
        if not pending or time.time() > end or not worker.alive:
            return asked, pending
        time.sleep(0.01)


def drain(
    session: BenchSession, n: int, *, task: str = "noop", threads: bool = False, processes: int = 1,
    template: str | None = None,
) -> Record:  # fmt: skip
    """Drain on a database of its own. Each job must leave its row, and none with the task that keeps none."""
    database = session.fresh(template)
    before = database.finished()
    filled(session, database, task, n)
    with session.timed():
        record = emptied(session, database, n, session.options(threads=threads, processes=processes))
    finished = database.finished() - before
    ok = record["ok"] and finished == (0 if task == FORGETS else n)
    return record | {"finished": finished, "finished_before": before, "ok": ok}


def wal(session: BenchSession, n: int) -> Record:
    """Measure the WAL of a job with its full history, from enqueue until it is finished; a checkpoint just before."""
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


def memory(session: BenchSession, n: int) -> Record:
    """Measure the worker's memory over a long run: how far it strays from the middle in the second half, in percent."""
    database = session.fresh()
    filled(session, database, "noop", n)
    samples: list[tuple[float, float, int]] = []

    def watch(worker: MeasuredWorker) -> None:
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
    """Leave out points so that about `most` remain, the last among them."""
    step = max(1, len(points) // most)
    return points[::step] + ([points[-1]] if (len(points) - 1) % step else [])


def quantile(ordered: list[float], q: float) -> float:
    """Return the value below which a share `q` of the ordered values lies, converted from seconds to milliseconds."""
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000, 2)
