"""Several worker processes under one parent, and the health probe."""

import asyncio
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pgqueue.process.health import Health, Probe
from tests.conftest import DEADLINE, scalar
from tests.harness import Conn, Process, wait_for

SHOP = """
import pgqueue
app = pgqueue.App()

@app.task(name="t")
def t() -> None: ...
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def pids(conn: Conn) -> set[int]:
    """Return the pids of the workers that live according to their rows."""
    return {row[0] for row in conn.execute("select pid from pgqueue.worker where lost_at is null").fetchall()}


def supervised(shop: Path, dsn: str, *arguments: str) -> Process:
    return Process(shop, dsn, "work", "-A", "shop:app", "--processes", "2", "--lease", "2", *arguments)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_supervisor_restarts_a_worker_that_dies_and_stops_all(shop: Path, dsn: str, conn: Conn) -> None:
    with supervised(shop, dsn) as parent:
        wait_for(lambda: len(pids(conn)) == 2, "two workers")
        first = pids(conn)
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(pids(conn) - first) == 1 and len(pids(conn) - {victim}) == 2, "another worker")
        assert "was killed by SIGKILL" in parent.log()
        parent.signal(signal.SIGTERM)
        assert parent.wait() == 0
    assert pids(conn) <= {victim}  # its row stays until the others declare it lost


def test_children_end_when_their_supervisor_is_killed(shop: Path, dsn: str, conn: Conn) -> None:
    with supervised(shop, dsn) as parent:
        wait_for(lambda: len(pids(conn)) == 2, "two workers")
        children = pids(conn)
        parent.signal(signal.SIGKILL)
        wait_for(lambda: not pids(conn), "the workers to unregister")
        wait_for(lambda: all(gone(pid) for pid in children), "the workers to be gone")


def test_a_supervisor_gives_up_on_what_can_never_work(shop: Path, empty_dsn: str) -> None:
    with supervised(shop, empty_dsn) as parent:
        assert parent.wait() == 78
        assert "pgqueue migrate" in parent.log()


def _get(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_worker_tells_whether_it_is_ready(shop: Path, dsn: str, conn: Conn) -> None:
    port = _free_port()
    with Process(shop, dsn, "work", "-A", "shop:app", "--health-port", str(port)) as worker:
        wait_for(lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker where waiting"), "a worker that claims")
        assert _get(port, "/live")[0] == 200
        status, body = _get(port, "/ready")
        assert (status, body["ok"]) == (200, True)
        assert body["seconds_since_success"]["claim"] >= 0
        assert _get(port, "/nothing")[0] == 404
        worker.signal(signal.SIGTSTP)
        wait_for(lambda: _get(port, "/ready")[0] == 503, "the quiet worker not to be ready")
        assert _get(port, "/live")[0] == 200


def test_a_scheduler_tells_whether_it_is_ready(shop: Path, dsn: str) -> None:
    port = _free_port()
    options = ["--health-port", str(port), "--health-host", "127.0.0.1"]
    with Process(shop, dsn, "schedule", "-A", "shop:app", *options) as scheduler:
        wait_for(lambda: "health probe on" in scheduler.log(), "the probe")
        wait_for(lambda: _get(port, "/ready")[0] == 200, "the scheduler to look at schedules")
        assert _get(port, "/live")[1]["seconds_since_success"]["schedules"] >= 0
        scheduler.signal(signal.SIGTERM)
        assert scheduler.wait() == 0


def test_a_quiet_worker_takes_no_more_jobs_and_tells_what_it_does(shop: Path, dsn: str, conn: Conn) -> None:
    with Process(shop, dsn, "work", "-A", "shop:app") as worker:
        wait_for(lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker where waiting"), "a worker that claims")
        worker.signal(signal.SIGTSTP)
        wait_for(lambda: "quiet" in worker.log(), "the word of it")
        conn.execute("insert into pgqueue.job_live (task, queue) values ('t', 'default')")
        conn.execute("notify pgqueue, 'default'")
        worker.signal(signal.SIGUSR1)
        wait_for(lambda: "running jobs: none" in worker.log(), "the dump")
        assert "Current thread" in worker.log() or "Thread" in worker.log()
        assert scalar(conn, "select state from pgqueue.job") == "pending"
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


@pytest.mark.parametrize("request_head", [b"nonsense\r\n\r\n", b"\r\n\r\n", b"GET", b"\x00" * 100_000, b""])
def test_a_probe_survives_what_is_no_request(request_head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> None:
        probe = Probe(lambda: Health(live=True, ready=True))
        port = await probe.start("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_head)
        if not request_head.endswith(b"\r\n\r\n"):
            writer.write_eof()
        await asyncio.wait_for(reader.read(), DEADLINE)  # until the probe closes the connection
        writer.close()
        assert (await asyncio.to_thread(_get, port, "/live"))[0] == 200
        await probe.close()

    asyncio.run(ask())
    assert not caplog.records
