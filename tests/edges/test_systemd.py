"""What systemd hears of the processes that it starts with `Type=notify`: a socket of the test's own stands for it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import scalar
from tests.harness import Conn, Process, wait_for

APP = """
import pathlib, time
import pgqueue

app = pgqueue.App()

@app.task(name="blocks")
async def blocks():
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

@app.task(name="waits")
def waits():
    pathlib.Path("begun").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""


class Manager:
    """Stands for systemd."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        """Return all lines that have come so far."""
        while True:
            try:
                self._heard += self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self._heard

    def forget(self) -> None:
        """Forget what was heard."""
        self.heard()
        self._heard = []

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    (tmp_path / "shop.py").write_text(APP)
    manager = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    yield manager
    manager.close()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (("work",), "runs jobs"),
        (("schedule",), "fires schedules"),
        (("work", "--processes", "2"), "keeps 2 worker processes"),
    ],
)
def test_a_process_is_ready_lives_and_stops(
    command: tuple[str, ...], status: str, tmp_path: Path, dsn: str, conn: Conn, manager: Manager
) -> None:
    with Process(tmp_path, dsn, *command, "-A", "shop:app") as process:
        process.alive_until(lambda: "READY=1" in manager.heard(), "READY")
        assert manager.heard()[:2] == ["READY=1", f"STATUS={status}"]
        rows = 2 if "--processes" in command else 1
        process.alive_until(lambda: scalar(conn, "select count(*) from pgqueue.worker") == rows, "rows")
        process.alive_until(lambda: manager.heard().count("WATCHDOG=1") > 3, "signs of life")
        process.terminate()
        assert process.wait() == 0, process.log()
    assert "STOPPING=1" in manager.heard()


def test_a_loop_that_hangs_gives_no_sign_of_life(tmp_path: Path, dsn: str, conn: Conn, manager: Manager) -> None:
    with Process(tmp_path, dsn, "work", "-A", "shop:app") as process:
        process.alive_until(lambda: "WATCHDOG=1" in manager.heard(), "signs of life")
        conn.execute("select pgqueue.enqueue('blocks', '{}')")
        process.alive_until(lambda: (tmp_path / "begun").exists(), "the block")
        manager.forget()
        process.alive_until(
            lambda: scalar(conn, "select clock_timestamp() - claimed_at > interval '2 s' from pgqueue.job_live"), "time"
        )
        assert manager.heard() == []
        (tmp_path / "go").touch()
        process.alive_until(lambda: "WATCHDOG=1" in manager.heard(), "signs of life after the block")


def test_it_says_that_it_stops_while_a_job_still_runs(tmp_path: Path, dsn: str, conn: Conn, manager: Manager) -> None:
    with Process(tmp_path, dsn, "work", "-A", "shop:app") as process:
        conn.execute("select pgqueue.enqueue('waits', '{}')")
        process.alive_until(lambda: (tmp_path / "begun").exists(), "the job")
        process.terminate()
        process.alive_until(lambda: "STOPPING=1" in manager.heard(), "STOPPING")
        (tmp_path / "go").touch()
        assert process.wait() == 0, process.log()


def test_a_manager_that_does_not_read_holds_up_nothing(
    tmp_path: Path, dsn: str, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "go").touch()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with Process(tmp_path, dsn, "work", "-A", "shop:app") as process:
        conn.execute("select pgqueue.enqueue('waits', '{}')")
        wait_for(lambda: scalar(conn, "select count(*) from pgqueue.job_finished") == 1)
        process.terminate()
        assert process.wait() == 0, process.log()
