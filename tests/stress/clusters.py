"""Scratch servers for disasters, a worker process on one, and what each disaster asks of it."""

import os
import pwd
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


def _unprivileged() -> str | None:
    """Return the user that runs a server where root starts it: Postgres refuses root."""
    if os.geteuid() != 0:
        return None
    there = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("embedded_postgres", "postgres", "nobody") if name in there)


class Cluster:
    """A server of our own: made, started, stopped, copied."""

    def __init__(self, directory: Path, programs: Path | None = None) -> None:
        """`programs`: the directory of its programs; without it the newest Postgres, that of the package."""
        from embedded_postgres._commands import POSTGRES_BIN_PATH

        self._bin = programs or Path(POSTGRES_BIN_PATH)
        self._user = _unprivileged()
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
        self.tool("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
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
        """Return its connection string."""
        base = {"host": "127.0.0.1", "port": self.port, "user": "postgres", "dbname": "postgres"}
        return psycopg.conninfo.make_conninfo(**base | {"connect_timeout": 5} | parts)

    def migrate(self) -> None:
        """Make pgqueue's tables and the one of the task."""
        migrate.upgrade(self.dsn())
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute("create table done (job_id bigint)")


@contextmanager
def clusters(count: int = 1, programs: Path | None = None) -> Iterator[list[Cluster]]:
    """Yield directories for servers of these programs; stop the servers in the end, and delete the directories."""
    home = Path(tempfile.mkdtemp(prefix="pgqueue-disaster-"))
    home.chmod(0o755)
    made = [Cluster(home / f"server{number}", programs) for number in range(count)]
    try:
        if made[0]._user is not None:
            shutil.chown(home, made[0]._user)
        yield made
    finally:
        for cluster in made:
            cluster.control("stop", "-m", "immediate", check=False)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def worker(dsn: str, *command: str, shop: str = SHOP, **environ: str) -> Iterator[Path]:
    """A worker process on `dsn`, or another command of pgqueue, with the tasks of `shop`; yields its log."""
    home = Path(tempfile.mkdtemp(prefix="pgqueue-worker-"))
    (home / "shop.py").write_text(shop)
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
    """Enqueue one by one until `enough` says so or one fails; return the ids that were acknowledged, and the error."""
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
