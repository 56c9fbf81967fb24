"""A producer process: `python -m tests.bench.child VERB …`.

It connects, prints `ready`, waits for a line on stdin, works, and prints one JSON object. So no measured time includes
connecting and importing, and several producers begin together.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psycopg

from pgqueue import UnknownJob, db
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.lifecycle import PLAIN_SUCCESS
from pgqueue.queries import Queries
from pgqueue.queries.jobs.resolve import is_counted

from .by_hand import run_slots
from .tasks import TASKS, app, noop
from .track import VARIABLE, count

CHUNK = 1000
QUERIES = Queries("pgqueue").jobs
# What an application without a queue would write: the row alone, without transitions and notifications.
BY_HAND = """insert into pgqueue.job_live (task, queue, priority, args, max_attempts, tags, headers, history)
values (%s, %s, %s, %s::jsonb, %s, %s, %s::jsonb, %s) returning id, run_at, created_at"""
COPY = "copy bench_floor (task, queue, priority, args, max_attempts, tags, headers, history) from stdin"
# What an application without pgqueue would write for a lock.
TAKE_BY_HAND = """insert into public.lock_by_hand (key, owner, expires_at) values (%s, %s, now() + interval '1 min')
on conflict do nothing"""
FREE_BY_HAND = "delete from public.lock_by_hand where key = %s and owner = %s"
Answer = dict[str, Any]
Work = Callable[[], Answer]


def payload(i: int) -> dict[str, Any]:
    """Return the arguments of job `i`."""
    return {"i": i, "email": "user@example.com"}


def _timed(step: Callable[[int], object], numbers: range) -> Answer:
    began = time.time()
    for i in numbers:
        step(i)
    ended = time.time()
    return {"seconds": ended - began, "began": began, "ended": ended}


def _connect() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["PGQUEUE_DSN"], autocommit=True)


def _warm() -> None:
    """Open the app's own connection."""
    with suppress(UnknownJob):
        app.get(0)


def one(low: str, n: str) -> Work:
    """Enqueue one by one, each with its own commit on a connection of the app's own."""
    _warm()
    return lambda: _timed(lambda i: noop.enqueue(**payload(i)), range(int(low), int(low) + int(n)))


def borrowed(n: str) -> Work:
    """The same on a borrowed connection that commits each statement."""
    conn = _connect()
    return lambda: _timed(lambda i: noop.using(conn).enqueue(**payload(i)), range(int(n)))


def hand(n: str) -> Work:
    """The same row by hand: a prepared INSERT."""
    conn = _connect()

    def insert(i: int) -> None:
        row: tuple[object, ...] = ("noop", "default", 0, json.dumps(payload(i)), 20, [], "{}", True)
        conn.execute(BY_HAND, row, prepare=True).fetchone()

    return lambda: _timed(insert, range(int(n)))


def bulk(task: str, n: str) -> Work:
    """Enqueue in calls of a thousand."""
    _warm()

    def chunk(low: int) -> None:
        TASKS[task].enqueue_many(payload(i) for i in range(low, min(low + CHUNK, int(n))))

    return lambda: _timed(chunk, range(0, int(n), CHUNK))


def keyed(how: str, n: str) -> Work:
    """Enqueue `n` jobs with an idempotency key and as many without, in turn, so that both run under the same load.

    `bulk`: in calls of a thousand; `one`: one by one, each with its own commit; `borrowed`: in one transaction of the
    caller.
    """
    _warm()
    conn = _connect()
    size = CHUNK if how == "bulk" else 1
    borrowed = (conn,) if how == "borrowed" else ()

    def plain(low: int) -> None:
        if how == "bulk":
            noop.enqueue_many(payload(i) for i in range(low, low + CHUNK))
        else:
            noop.using(*borrowed).enqueue(**payload(low))

    def with_key(low: int) -> None:
        if how == "bulk":
            keys = [f"order-{i}" for i in range(low, low + CHUNK)]
            noop.using(idempotency_key=keys).enqueue_many(payload(i) for i in range(low, low + CHUNK))
        else:
            noop.using(*borrowed, idempotency_key=f"order-{low}").enqueue(**payload(low))

    def work() -> Answer:
        with conn.transaction() if borrowed else nullcontext():
            without, keyed = _in_turn(plain, with_key, range(0, int(n), size))
            return {"plain": without, "keyed": keyed}

    return work


def _in_turn(one: Callable[[int], object], other: Callable[[int], object], numbers: range) -> tuple[float, float]:
    """Run both steps for each number, each first every other time; return the total time of each."""
    took = {one: 0.0, other: 0.0}
    for turn, i in enumerate(numbers):
        for step in (one, other) if turn % 2 else (other, one):
            began = time.perf_counter()
            step(i)
            took[step] += time.perf_counter() - began
    return took[one], took[other]


def locks(n: str) -> Work:
    """Take and release so many free locks, each of a key of its own, and as many rows by hand in turn: a prepared
    INSERT and a prepared DELETE, each with its commit."""
    _warm()
    conn = _connect()

    def by_hand(i: int) -> None:
        key, owner = f"sync:{i}", uuid.uuid4()
        assert conn.execute(TAKE_BY_HAND, (key, owner), prepare=True).rowcount == 1
        conn.execute(FREE_BY_HAND, (key, owner), prepare=True)

    def locked(i: int) -> None:
        with app.lock(f"sync:{i}"):
            pass

    def work() -> Answer:
        hand, lock = _in_turn(by_hand, locked, range(int(n)))
        return {"hand": hand, "locked": lock}

    return work


def copy(n: str) -> Work:
    """Write the same rows by bare COPY into an equal table, with a commit for each thousand."""
    conn = _connect()

    def chunk(low: int) -> None:
        numbers = range(low, min(low + CHUNK, int(n)))
        lines = [f"noop\tdefault\t0\t{json.dumps(payload(i))}\t20\t{{}}\t{{}}\tt\n" for i in numbers]
        with conn.cursor().copy(COPY) as stream:
            stream.write("".join(lines))

    return lambda: _timed(chunk, range(0, int(n), CHUNK))


def rate(low: str, n: str, hertz: str) -> Work:
    """Enqueue at fixed times: a slow call does not delay those after it. Answers when each call began."""
    _warm()

    def work() -> Answer:
        start, sent = time.time(), []
        for k in range(int(n)):
            time.sleep(max(0.0, start + k / float(hertz) - time.time()))
            sent.append(time.time())
            noop.enqueue(**payload(int(low) + k))
        return {"sent": sent, "seconds": time.time() - start}

    return work


def signals(hertz: str) -> Work:
    """Send a signal to each job that waits, at fixed times. Answers when each call began, by the job's number."""
    with _connect() as conn:
        jobs = conn.execute("select id, (args ->> 'i')::int from pgqueue.job_live order by id").fetchall()
    _warm()

    def work() -> Answer:
        start, sent = time.time(), {}
        for k, (job, i) in enumerate(jobs):
            time.sleep(max(0.0, start + k / float(hertz) - time.time()))
            sent[i] = time.time()
            app.signal(job, "go")
        return {"sent": sent}

    return work


def ends(n: str) -> Work:
    """Claim so many jobs, and end them one by one, each with a statement and a commit, as a worker does."""
    conn, worker, jobs = _connect(), uuid.uuid4(), list[ClaimedJob]()
    while len(jobs) < int(n):
        room = min(500, int(n) - len(jobs))
        jobs += db.run(conn, QUERIES.claim(worker, {"default": room}, room))

    def end(i: int) -> None:
        outcome = (jobs[i], PLAIN_SUCCESS)
        if jobs[i].ties is None:
            moved = db.run(conn, QUERIES.resolve([outcome]))
        elif is_counted(*outcome):
            moved = db.run(conn, QUERIES.succeed_counted([outcome])).moved
        else:
            moved = db.run(conn, QUERIES.resolve_tied([outcome])).moved
        assert moved == {jobs[i].id}

    return lambda: _timed(end, range(int(n)))


def stream(n: str) -> Work:
    """Stream so many members into a batch, in one transaction."""
    _warm()

    def work() -> Answer:
        began = time.time()
        with app.batch(name="streamed") as batch:
            batch.add_many(noop, (payload(i) for i in range(int(n))))
        return {"seconds": time.time() - began}

    return work


def flow(n: str, limit: str, seconds: str) -> Work:
    """Keep a backlog between `limit` and a chunk more, for so many jobs or seconds."""
    _warm()
    track = Path(os.environ[VARIABLE])

    def work() -> Answer:
        sent, end = 0, time.time() + float(seconds)
        while sent < int(n) and time.time() < end:
            if sent - count(track) >= int(limit):
                time.sleep(0.005)
                continue
            to = min(sent + CHUNK, int(n))
            noop.enqueue_many(payload(i) for i in range(sent, to))
            sent = to
        return {"sent": sent}

    return work


def slots(count: str, seconds: str) -> Work:
    """Run jobs by hand in so many slots."""
    return lambda: asyncio.run(run_slots(int(count), float(seconds)))


VERBS: dict[str, Callable[..., Work]] = {
    f.__name__: f for f in (one, borrowed, hand, bulk, keyed, copy, rate, signals, ends, stream, flow, locks, slots)
}


def main() -> None:
    """Connect, wait for the line, work, answer."""
    verb, *arguments = sys.argv[1:]
    work = VERBS[verb](*arguments)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(work()), flush=True)
    app.close()


if __name__ == "__main__":
    main()
