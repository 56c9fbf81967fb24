"""The files of pgqueue that one job passes, counted by running jobs under a profiler.

A file counts if one of its functions is called at least once for each job. Twenty jobs are enqueued one by one, then a
worker runs twenty jobs that arrive one by one; each is awaited before the next. What a process does by the clock (its
heartbeat, its duties, its poll) is called less often than that and does not count, nor does what only runs at import.
Functions that Python writes itself (those of dataclasses and named tuples) have no file.

Run by `tests.project.house`; imports only what every state of the package has had.
"""

import asyncio
import importlib
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

import pgqueue
from pgqueue import migrate
from pgqueue.worker import Worker, WorkerSettings

PACKAGE = Path(pgqueue.__file__).parent
JOBS = 20
GAP_SECONDS = 0.06  # slow enough that the worker goes on sleeping between jobs, and is woken for each


class Calls:
    """Counts the calls of each function of the package, in the order in which files are first reached."""

    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            self.count[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    def start(self) -> None:
        """Count in this thread and in those that are started from now on."""
        threading.setprofile(self)
        sys.setprofile(self)

    def stop(self) -> None:
        """Count no more."""
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def files(self, least: int) -> list[str]:
        """Return the files with a function that was called at least so often."""
        often = [name for (name, _), count in self.count.items() if count >= least]
        return [str(Path(name).relative_to(PACKAGE.parent)) for name in dict.fromkeys(often)]


def enqueueing(enqueue: Callable[[], Any]) -> list[str]:
    """Return the files of one enqueue."""
    enqueue()  # opens the connection
    calls = Calls()
    calls.start()
    for _ in range(JOBS):
        enqueue()
    calls.stop()
    return calls.files(JOBS)


def working(app: pgqueue.App, dsn: str, enqueue: Callable[[], Any]) -> list[str]:
    """Return the files of claiming, running and resolving one job."""
    calls = Calls()

    def feed(worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        sys.setprofile(None)
        with psycopg.connect(dsn, autocommit=True) as conn:
            try:
                for _ in range(JOBS):
                    enqueue()
                    _wait(lambda: not conn.execute("select from pgqueue.job_live").fetchall())
                    time.sleep(GAP_SECONDS)
            finally:
                loop.call_soon_threadsafe(worker.stop)

    async def run() -> None:
        worker = Worker(app, WorkerSettings(poll_seconds=30.0))
        working = asyncio.create_task(worker.run())
        with psycopg.connect(dsn, autocommit=True) as conn:
            while not conn.execute("select from pgqueue.worker where waiting").fetchall():
                await asyncio.sleep(0.05)
        await asyncio.to_thread(feed, worker, asyncio.get_running_loop())
        await working

    calls.start()
    asyncio.run(run())
    calls.stop()
    return calls.files(JOBS)


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError("the job did not end")
        time.sleep(0.002)


def embedded() -> Any:
    """Return the module that starts an embedded Postgres, wherever it stands."""
    for name in ("pgqueue.db.embedded", "pgqueue.embedded"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit("no module starts an embedded Postgres")


def show(dsn: str) -> None:
    """Print the journeys of a job of an async task and of a sync one."""
    app = pgqueue.App(dsn)

    @app.task(name="on_loop")
    async def on_loop(x: int) -> None: ...

    @app.task(name="in_thread")
    def in_thread(x: int) -> None: ...

    with psycopg.connect(dsn, autocommit=True) as conn:
        borrowed = enqueueing(lambda: on_loop.using(conn).enqueue(1))
        conn.execute("delete from pgqueue.job_live")
    own = enqueueing(lambda: on_loop.enqueue(1))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("delete from pgqueue.job_live")
    loop = working(app, dsn, lambda: on_loop.enqueue(1))
    thread = working(app, dsn, lambda: in_thread.enqueue(1))
    _print("enqueue, on a borrowed connection", borrowed)
    _print("enqueue, on an own connection", own)
    _print("claim, run and resolve, async def", loop)
    _print("claim, run and resolve, def", thread)
    _print("the whole journey: own connection, async def", list(dict.fromkeys(own + loop)))
    app.close()


def _print(what: str, files: list[str]) -> None:
    lines = sum(bool(line.strip()) for name in files for line in (PACKAGE.parent / name).read_text().splitlines())
    rooms = {name.split("/")[1] for name in files}
    print(f"files of {what}: {len(files)}, of {lines} lines, at {len(rooms)} places of the top")
    for name in files:
        print(f"    {name}")


def main() -> None:
    """Run the journeys on a server of their own."""
    directory = Path(tempfile.mkdtemp(prefix="pgqueue-journey-"))
    directory.chmod(0o755)  # under root the server is another user
    server = embedded().start(directory / "postgres")
    try:
        migrate.upgrade(server.dsn)
        show(server.dsn)
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
