"""How fast jobs are enqueued: one by one, in bulk, by eight producers at once; and what the same rows cost by hand."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from uuid import uuid4

import psycopg

from .database import BenchDatabase, in_background
from .results import Record
from .session import BenchSession

PRODUCERS = 8
# No commit notifies: a trigger resets the flag with which the worker says that it waits.
NEVER_WAITS = """
create function public.bench_never_waits() returns trigger language plpgsql as
$$ begin new.waiting := false; return new; end $$;
create trigger bench_never_waits before insert or update on pgqueue.worker
    for each row execute function public.bench_never_waits()"""
ALWAYS_WAITS = """
insert into pgqueue.worker (id, kind, host, pid, version, queues, tasks, slots, lease_seconds, waiting)
values (%s, 'worker', 'bench', 0, '0', '{default}', '{noop}', 1, 86400, true)"""


def single(session: BenchSession, n: int, verb: str) -> Record:
    """One producer, one commit a job: `one` on the app's own connection, on a `borrowed` one, or by `hand`."""
    database = session.fresh()
    with session.timed():
        database.settle()
        answer = session.produce(*([verb, 0, n] if verb == "one" else [verb, n]))
    return _rate(n, answer["seconds"], database.pending())


def bulk(session: BenchSession, n: int) -> Record:
    """Enqueue in calls of a thousand."""
    database = session.fresh()
    with session.timed():
        database.settle()
        answer = session.produce("bulk", "noop", n)
    return _rate(n, answer["seconds"], database.pending())


def keyed(session: BenchSession, n: int, how: str) -> Record:
    """Enqueue `n` jobs with an idempotency key and `n` without in turn. `ratio`: the cost of both compared."""
    database = session.fresh()
    with session.timed():
        database.settle()
        answer = session.produce("keyed", how, n)
    return {
        "jobs": n,
        "ratio": round(answer["keyed"] / answer["plain"], 3),
        "keyed_us": round(answer["keyed"] / n * 1e6, 2),
        "plain_us": round(answer["plain"] / n * 1e6, 2),
        "ok": database.pending() == 2 * n and database.value("select count(*) from pgqueue.idempotency_key") == n,
    }


def copy(session: BenchSession, n: int) -> Record:
    """COPY the rows into a table with the same columns, indexes and constraints."""
    database = session.fresh()
    database.conn.execute("create table public.bench_floor (like pgqueue.job_live including all)")
    with session.timed():
        database.settle()
        answer = session.produce("copy", n)
    return _rate(n, answer["seconds"], int(database.value("select count(*) from public.bench_floor")))


def _rate(n: int, seconds: float, stored: int) -> Record:
    return {"jobs": n, "seconds": round(seconds, 3), "jobs_s": round(n / seconds, 1), "ok": stored == n}


def crowd(session: BenchSession, n: int, notified: str) -> Record:
    """Eight producers commit at once.

    A worker runs beside them and is notified when it waits (`waiting`) or `never`. Or none runs: with `always`, a row
    says that one waits all the time; with `nobody`, there is no such row.
    """
    database = session.fresh()
    each = n // PRODUCERS
    if notified == "never":
        database.conn.execute(NEVER_WAITS)
    with session.timed():
        database.settle()
        with _audience(session, database, notified):
            seconds = _committed(session, each)
    stored = int(database.value("select count(*) from pgqueue.job"))
    return _rate(each * PRODUCERS, seconds, stored)


def _committed(session: BenchSession, each: int) -> float:
    calls = [["one", k * each, each] for k in range(PRODUCERS)]
    with session.producing(*calls) as producers:
        for producer in producers:
            producer.go()
        answers = [producer.answer() for producer in producers]
    return float(max(a["ended"] for a in answers) - min(a["began"] for a in answers))


@contextmanager
def _audience(session: BenchSession, database: BenchDatabase, notified: str) -> Iterator[None]:
    if notified == "always":
        database.conn.execute(ALWAYS_WAITS, [uuid4()])
        with _listening(database):
            yield
        return
    with session.working(session.options()) if notified in ("waiting", "never") else nullcontext() as worker:
        if worker:
            _until_it_waits(database, notified == "waiting")
        yield


def _until_it_waits(database: BenchDatabase, waiting: bool) -> None:
    end = time.time() + 30
    statement = "select count(*) from pgqueue.worker where waiting = %s"
    while not database.value(statement, waiting):
        if time.time() > end:
            raise RuntimeError("the worker did not begin to wait within 30 s")
        time.sleep(0.05)
    time.sleep(1)


def _listening(database: BenchDatabase) -> AbstractContextManager[None]:
    """Listen and read in a thread: without a listener a notification costs less."""

    def listen(done: threading.Event) -> None:
        with psycopg.connect(database.dsn, autocommit=True) as conn:
            conn.execute("listen pgqueue")
            while not done.is_set():
                for _ in conn.notifies(timeout=0.2):
                    pass

    return in_background(listen)
