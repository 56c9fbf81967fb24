"""A worker inside real servers: each of their processes has one, it stops with them, and reload replaces it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import scalar
from tests.harness import Conn, wait_for

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/frameworks.md"
WORKERS = "select count(*) from pgqueue.worker where kind = 'worker'"
FINISHED = "select count(*) from pgqueue.job_finished where state = 'succeeded'"
SLOW = """

@app.task
async def slow() -> None:
    import asyncio, pathlib
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
"""
WSGI = """
import pgqueue
from flask import Flask

app = pgqueue.App()
site = Flask("site")


@app.task
def send_receipt(order_id: int) -> int:
    return order_id


@site.post("/orders/<int:order_id>")
def place_order(order_id: int):
    return {"job": send_receipt.enqueue(order_id).id}, 202
"""
HOOKS = """
inside = None


def post_worker_init(worker):
    global inside
    from orders_lifespan import app
    inside = app.worker(concurrency=2)
    inside.__enter__()


def worker_exit(server, worker):
    if inside is not None:
        inside.__exit__(None, None, None)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The example of the page, and a task that waits for a file."""
    (code,) = re.findall(r"^```python\n# orders_lifespan\.py\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "orders_lifespan.py").write_text(code + SLOW)
    return tmp_path


@contextmanager
def serving(site: Path, dsn: str, *command: str, at: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until its port answers; it must have ended when the block is left."""
    environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    with (site / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", *command], cwd=site, env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or answers(at), "the server")
        assert server.poll() is None, (site / "log").read_text()
        yield server
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(60)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/openapi.json", timeout=5).status_code < 500
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def order(port: int, number: int = 7) -> None:
    assert httpx.post(f"http://127.0.0.1:{port}/orders/{number}").status_code == 202


UVICORN = ["uvicorn", "orders_lifespan:api"]
GRANIAN = ["granian", "--interface", "asgi", "orders_lifespan:api"]
MANY = pytest.mark.servers


@pytest.mark.parametrize(
    ("command", "processes"),
    [
        pytest.param(UVICORN, 1, id="uvicorn"),
        pytest.param([*UVICORN, "--workers", "2"], 2, id="uvicorn with two processes", marks=MANY),
        pytest.param(GRANIAN, 1, id="granian", marks=MANY),
        pytest.param([*GRANIAN, "--workers", "2"], 2, id="granian with two processes", marks=MANY),
    ],
)
def test_a_server_runs_its_jobs_and_leaves_no_worker(
    command: list[str], processes: int, site: Path, dsn: str, conn: Conn
) -> None:
    port = free_port()
    with serving(site, dsn, *command, "--port", str(port), at=port) as server:
        wait_for(lambda: scalar(conn, WORKERS) == processes, "a worker in each process")
        order(port)
        wait_for(lambda: scalar(conn, FINISHED) == 1, "the job")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM), (site / "log").read_text()
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


@MANY
def test_a_stop_lets_a_running_job_end(site: Path, dsn: str, conn: Conn) -> None:
    port = free_port()
    with serving(site, dsn, *UVICORN, "--port", str(port), at=port) as server:
        conn.execute("select pgqueue.enqueue('orders_lifespan.slow', '{}')")
        wait_for(lambda: (site / "begun").exists(), "the job")
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(port), "the server to have stopped serving")
        assert server.poll() is None
        (site / "go").touch()
        server.wait(60)
    assert scalar(conn, FINISHED) == 1


@MANY
def test_a_reload_replaces_the_worker(site: Path, dsn: str, conn: Conn) -> None:
    port = free_port()
    with serving(site, dsn, *UVICORN, "--reload", "--port", str(port), at=port):
        first = scalar(conn, "select id from pgqueue.worker where kind = 'worker'")
        file = site / "orders_lifespan.py"
        file.write_text(file.read_text() + "\n# changed\n")
        os.utime(file, (time.time() + 5, time.time() + 5))
        now = "select array_agg(id) from pgqueue.worker where kind = 'worker'"
        wait_for(lambda: scalar(conn, now) not in (None, [first]), "the new worker")
        wait_for(lambda: answers(port), "the new server")
        order(port)
        wait_for(lambda: scalar(conn, FINISHED) == 1, "the job")
        assert scalar(conn, WORKERS) == 1


@MANY
@pytest.mark.parametrize("preload", [False, True])
def test_gunicorn_with_a_worker_in_a_thread_of_each_process(
    preload: bool, tmp_path: Path, dsn: str, conn: Conn
) -> None:
    (tmp_path / "orders_lifespan.py").write_text(WSGI)
    (tmp_path / "hooks.py").write_text(HOOKS)
    port = free_port()
    command = ["gunicorn", "orders_lifespan:site", "-c", "hooks.py", "-w", "2", "-b", f"127.0.0.1:{port}"]
    with serving(tmp_path, dsn, *command, *(["--preload"] if preload else []), at=port) as server:
        wait_for(lambda: scalar(conn, WORKERS) == 2, "a worker in each process")
        for number in range(20):
            order(port, number)
        wait_for(lambda: scalar(conn, FINISHED) == 20, "the jobs")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, (tmp_path / "log").read_text()
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_server_does_not_start_without_its_tables(site: Path, empty_dsn: str) -> None:
    environ: dict[str, Any] = os.environ | {"PGQUEUE_DSN": empty_dsn, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", *UVICORN, "--port", str(free_port())]
    done = subprocess.run(command, cwd=site, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "NotMigrated" in done.stderr
    assert "run `pgqueue migrate`" in done.stderr
