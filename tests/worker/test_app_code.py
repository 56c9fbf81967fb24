"""What the code of an app does to its worker's process, beside running jobs: logging, exits, the fork server's end."""

import signal
from pathlib import Path

import pytest

from pgqueue import App
from tests.conftest import DEADLINE, scalar
from tests.harness import Conn, Process

SHOP = """
import asyncio, logging, logging.config, os, signal, sys
import pgqueue

console = {"class": "logging.StreamHandler", "formatter": "own"}
logging.config.dictConfig({
    "version": 1,
    "formatters": {"own": {"format": "SHOP %(message)s"}},
    "handlers": {"console": console},
    "root": {"level": "INFO", "handlers": ["console"]},
})
app = pgqueue.App()
background = set()


@app.task(name="fails")
def fails() -> None:
    raise ValueError("no such card")


@app.task(name="exits")
async def exits() -> int:
    async def later() -> None:
        sys.exit(3)

    background.add(asyncio.create_task(later()))
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    return os.getpid()


@app.task(name="log breaks")
async def log_breaks() -> int:
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("disk full")

    logging.getLogger().addHandler(Broken())
    asyncio.get_running_loop().call_soon(int, "x")  # asyncio logs its error
    return os.getpid()


@app.task(name="pid")
async def pid() -> int:
    return os.getpid()


@app.task(name="kills the fork server", isolation="process")
def kills_fork_server() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


@app.task(name="in a child", isolation="process")
def in_a_child() -> None: ...
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def test_a_worker_outlives_exits_and_log_handlers_of_its_jobs(shop: Path, dsn: str, app: App) -> None:
    with Process(shop, dsn, "work", "-A", "shop:app", "-c", "1", "--poll", "0.1") as worker:
        for task in ("exits", "exits", "log breaks", "pid", "pid"):
            assert app.enqueue(task).wait(DEADLINE) == worker.pid
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_the_apps_own_logging_wins_and_does_not_silence_the_worker(shop: Path, dsn: str, app: App, conn: Conn) -> None:
    job = app.using(max_attempts=1).enqueue("fails")
    with Process(shop, dsn, "work", "-A", "shop:app", "--poll", "0.1") as worker:
        worker.alive_until(lambda: f"SHOP job {job.id} fails" in worker.log(), "the line of a dead letter")
        assert worker.log().count("it is a dead letter") == 1


def test_a_worker_that_loses_its_fork_server_ends_as_failed(shop: Path, dsn: str, app: App, conn: Conn) -> None:
    with Process(shop, dsn, "work", "-A", "shop:app", "-c", "1", "--poll", "0.1") as worker:
        killer = app.using(max_attempts=1).enqueue("kills the fork server")
        after = app.enqueue("in a child")
        assert worker.wait() == 1
        assert "error: the fork server of the child processes was killed by SIGKILL" in worker.log()
    assert app.get(killer.id).state == "failed"
    found = "select array[state, attempt::text] from pgqueue.job where id = %s"
    assert scalar(conn, found, after.id) == ["pending", "0"]
