"""Disasters of the server itself: failover, full disks, lost commits, full queues, spent sequences.

Each disaster has scratch servers of its own and real worker processes, prints what it saw, and raises if jobs were lost
or doubled. `python -m tests.stress --disaster all`.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable

import psycopg

import pgqueue

from . import failovers
from .clusters import Cluster, clusters, each_once, enqueue_until, until, worker

FAKETIME = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def demoted() -> str:
    """F24: the server that all connections lead to becomes read-only under them."""
    with clusters() as (server,):
        server.make().start()
        server.migrate()
        with worker(server.dsn()) as log:
            each_once(server.dsn(), enqueue_until(server.dsn(), lambda count: count == 10)[0])
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute("alter system set default_transaction_read_only = on")
                conn.execute("select pg_reload_conf()")
                time.sleep(6.0)  # longer than a lease
                conn.execute("set default_transaction_read_only = off")
                conn.execute("alter system reset default_transaction_read_only")
                conn.execute("select pg_reload_conf()")
            ids, _ = enqueue_until(server.dsn(), lambda count: count == 10)
            each_once(server.dsn(), ids)
            lines = len(log.read_text().splitlines())
    return f"read-only for 6 s, then 10 more jobs: each once; {lines} lines in the worker's log"


def full_disk() -> str:
    """F21: the disk of the server is full, and has room again. Needs root, for a file system of its own."""
    if os.geteuid() != 0:
        return "not provoked: needs root for a small file system"
    with clusters() as (server,):
        server.data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(server.data)], check=True)
        try:
            inner = Cluster(server.data / "data")
            shutil.chown(server.data, "embedded_postgres")
            inner.make().start("max_wal_size=32MB", "min_wal_size=32MB", "wal_recycle=off")
            inner.migrate()
            with worker(inner.dsn()) as log:
                ballast = server.data / "ballast"
                with ballast.open("wb") as file:
                    free = os.statvfs(server.data)
                    file.write(b"x" * max(free.f_bavail * free.f_frsize - 24 * 1024 * 1024, 0))
                ids, error = enqueue_until(inner.dsn(), lambda count: count == 60_000)
                assert error, "the disk did not fill"
                time.sleep(3.0)
                ballast.unlink()
                inner.start(check=False)  # it may have stopped
                each_once(inner.dsn(), ids)
                lines = len(log.read_text().splitlines())
            inner.control("stop", "-m", "immediate", check=False)
        finally:
            subprocess.run(["umount", "-l", str(server.data)], check=False)
    return f"{len(ids)} jobs until {error!r}; with room again each ended once; {lines} lines in the worker's log"


def lazy_crash() -> str:
    """F10: the server crashes while commits do not wait for the disk."""
    with clusters() as (server,):
        server.make().start("synchronous_commit=off", "wal_writer_delay=10s")
        server.migrate()
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("create table orders (job_id bigint primary key)")
            conn.execute("checkpoint")
        ids, app = [], pgqueue.App()
        for _ in range(300):
            with psycopg.connect(server.dsn()) as conn:
                job = app.using(conn).enqueue("t").id
                conn.execute("insert into orders values (%s)", (job,))
            ids.append(job)
        server.control("stop", "-m", "immediate")
        server.start()
        with worker(server.dsn()), psycopg.connect(server.dsn(), autocommit=True) as conn:
            kept = [row[0] for row in conn.execute("select job_id from orders").fetchall()]
            each_once(server.dsn(), kept)
            ghosts = conn.execute(
                "select count(*) from pgqueue.job where id <> all (select job_id from orders)"
            ).fetchone()
        assert ghosts == (0,), f"jobs without their business row: {ghosts}"
    return f"{len(ids)} acknowledged, {len(ids) - len(kept)} lost with their business rows, no half of one"


def full_notify_queue() -> str:
    """F18: a listener is idle in a transaction, and the queue of notifications runs full."""
    with clusters() as (server,):
        server.make().start("max_notify_queue_pages=64")
        server.migrate()
        with worker(server.dsn()), psycopg.connect(server.dsn(), autocommit=True) as idle:
            until(server.dsn(), "select bool_or(waiting) from pgqueue.worker")
            idle.execute("listen pgqueue")
            idle.execute("begin")
            idle.execute("select 1")
            error = ""
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                try:
                    for number in range(1000):
                        conn.execute("select pg_notify('x', repeat('x', 7000) || %s)", (str(number),))
                except psycopg.Error as full:
                    error = str(full).splitlines()[0]
            assert error, "the queue did not fill"
            ids, refused = enqueue_until(server.dsn(), lambda count: count == 20)
            assert not refused, refused
            each_once(server.dsn(), ids)
    return f"a plain NOTIFY fails ({error!r}); 20 jobs were enqueued all the same, and polling ran each once"


def spent_sequence() -> str:
    """F33: ids beyond 32 bits, and the last of 64."""
    with clusters() as (server,):
        server.make().start()
        server.migrate()
        with worker(server.dsn()):
            said = []
            for start in (2**31 - 3, 2**63 - 4):
                with psycopg.connect(server.dsn(), autocommit=True) as conn:
                    conn.execute("select setval('pgqueue.job_id', %s)", (start,))
                ids, error = enqueue_until(server.dsn(), lambda count: count == 6)
                each_once(server.dsn(), ids)
                said.append(f"from {ids[0]}: {len(ids)} ran once" + (f", then {error!r}" if error else ""))
    return "; ".join(said)


def skewed_clocks() -> str:
    """F26: the clocks of a worker and a scheduler are an hour ahead, those of others an hour behind."""
    library = next(filter(os.path.exists, FAKETIME), None)
    if library is None:
        return "not provoked: needs libfaketime"
    ahead, behind = (
        {"LD_PRELOAD": library, "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"} for by in ("+1h", "-1h")
    )
    with clusters() as (server,):
        server.make().start()
        server.migrate()
        dsn = server.dsn()
        with worker(dsn, **ahead), worker(dsn, **behind), worker(dsn, "schedule", **ahead), worker(dsn, "schedule"):
            until(dsn, "select count(*) = 4 from pgqueue.worker")
            tomorrow = pgqueue.App(dsn).using(delay=600).enqueue("t").id
            ids, _ = enqueue_until(dsn, lambda count: count == 50)
            each_once(dsn, ids)
            until(dsn, "select count(*) >= 8 from pgqueue.schedule_fire where outcome = 'fired'")
            with psycopg.connect(dsn) as conn:
                seen = conn.execute(
                    "select (select state from pgqueue.job where id = %s), count(*), count(*) filter (where tick > at),"
                    " count(*) filter (where outcome <> 'fired') from pgqueue.schedule_fire",
                    (tomorrow,),
                ).fetchone()
        assert seen is not None
        assert (seen[0], *seen[2:]) == ("pending", 0, 0), seen
    return f"50 jobs ran once, one for later stayed pending, {seen[1]} ticks fired, none early, none missed"


def stepped_clock() -> str:
    """F27: the database's clock jumps an hour ahead, and back."""
    library = next(filter(os.path.exists, FAKETIME), None)
    if library is None:
        return "not provoked: needs libfaketime"
    with clusters() as (server,):
        clock = server.data.parent / "clock"
        clock.write_text("+0")
        clock.chmod(0o644)
        server.make()
        server.environ = {
            "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        server.start()
        server.migrate()
        ids: list[int] = []
        with worker(server.dsn()) as log, worker(server.dsn()):
            until(server.dsn(), "select count(*) = 2 from pgqueue.worker")
            for step in ("+0", "+1h", "+0"):
                clock.write_text(step)
                ahead = time.time() + (3000 if step == "+1h" else -5)
                until(server.dsn(), "select extract(epoch from clock_timestamp()) > %s", ahead)
                ids += enqueue_until(server.dsn(), lambda count: count == 50)[0]
                time.sleep(2.0)
            late = enqueue_until(server.dsn(), lambda count: count == 20)[0]
            each_once(server.dsn(), ids + late)
            lost = log.read_text().count("was declared lost")
    return f"{len(ids) + len(late)} jobs, each effect once; this worker was declared lost {lost} times and came back"


def old_transactions() -> str:
    """F34: a billion transactions later, with everything frozen under a listening worker."""
    with clusters() as (server,):
        server.make().start()
        server.migrate()
        before, _ = enqueue_until(server.dsn(), lambda count: count == 5)
        server.control("stop", "-m", "fast")
        xid = 1_000_000_000
        server.tool("pg_resetwal", "-x", str(xid), "-D", str(server.data))
        segment = server.data / "pg_xact" / f"{xid // (1 << 20):04X}"
        segment.write_bytes(bytes(1 << 18))
        if server._user is not None:
            shutil.chown(segment, server._user)
        server.start()
        with worker(server.dsn()):
            each_once(server.dsn(), before)
            with psycopg.connect(server.dsn(), autocommit=True) as conn:
                conn.execute("vacuum freeze")
            after, _ = enqueue_until(server.dsn(), lambda count: count == 20)
            each_once(server.dsn(), after)
            with psycopg.connect(server.dsn()) as conn:
                seen = conn.execute(
                    "select txid_current(), age(datfrozenxid) from pg_database where datname = 'postgres'"
                )
                now, age = seen.fetchone() or (0, 0)
    return f"at transaction {now}, frozen to an age of {age}: jobs of before and after each ran once"


DISASTERS: dict[str, tuple[str, Callable[[], str]]] = {
    "lazy_crash": ("F10", lazy_crash),
    "full_notify_queue": ("F18", full_notify_queue),
    "full_disk": ("F21", full_disk),
    "failover": ("F24", failovers.synchronous),
    "failover_asynchronous": ("F24", failovers.asynchronous),
    "failover_bounced": ("F24", failovers.bounced),
    "demoted": ("F24", demoted),
    "skewed_clocks": ("F26", skewed_clocks),
    "stepped_clock": ("F27", stepped_clock),
    "spent_sequence": ("F33", spent_sequence),
    "old_transactions": ("F34", old_transactions),
}


def befall(name: str) -> int:
    """Let one disaster happen, or all; print what was seen; return 0 if nothing was lost."""
    failures = 0
    for one in DISASTERS if name == "all" else [name]:
        number, disaster = DISASTERS[one]
        try:
            print(f"{number} {one}: {disaster()}", flush=True)
        except (AssertionError, psycopg.Error, subprocess.SubprocessError) as error:
            failures += 1
            print(f"{number} {one}: VIOLATED: {type(error).__name__}: {error}", flush=True)
    return 1 if failures else 0
