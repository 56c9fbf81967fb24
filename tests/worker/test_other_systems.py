"""Systems without fork and without the signals of Unix: one clear error for what needs them, and the rest works."""

import asyncio
import os
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from pgqueue import App, ConfigError
from pgqueue.cli import cli
from pgqueue.cli.signals import StopSignals
from pgqueue.db import pools
from pgqueue.process.memory import resident_bytes
from pgqueue.process.system import new_loop
from pgqueue.worker import Worker, WorkerSettings
from tests.conftest import drain
from tests.harness import Conn


@pytest.fixture
def dsn(emptied_dsn: str) -> str:
    return emptied_dsn


@pytest.fixture
def _no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    monkeypatch.delattr(os, "register_at_fork")


@pytest.mark.usefixtures("_no_fork")
def test_tasks_in_child_processes_are_refused_by_name_before_a_job_is_claimed(app: App) -> None:
    app.task(name="crunch", isolation="process")(lambda: None)
    with pytest.raises(ConfigError, match=r"isolation='process' \(crunch\) cannot run on this system .* no os\.fork"):
        Worker(app, WorkerSettings()).prepare()


@pytest.mark.usefixtures("_no_fork")
@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (["work", "-A", "x:y", "--processes", "2"], "start the command as often"),
        (["dev", "-A", "x:y"], "pgqueue work --with-scheduler"),
        (["demo"], "README"),
    ],
)
def test_commands_that_need_more_name_what_to_run_instead(command: list[str], instead: str) -> None:
    refused = CliRunner().invoke(cli, command)
    assert isinstance(refused.exception, ConfigError)
    assert "no os.fork" in str(refused.exception)
    assert instead in str(refused.exception)


@pytest.mark.usefixtures("_no_fork")
def test_a_worker_without_fork_runs_jobs_in_threads_and_on_its_loop(app: App, conn: Conn) -> None:
    async def double(n: int) -> int:
        return 2 * n

    sync, on_loop = app.task(name="sync")(lambda n: n + 1), app.task(name="loop")(double)
    jobs = [sync.enqueue(1), on_loop.enqueue(4)]
    drain(app, conn)
    assert [app.get(job.id).result for job in jobs] == [2, 8]


def test_connections_of_a_loop_that_the_process_makes_itself_work_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Selecting(asyncio.SelectorEventLoop):
        def __init__(self) -> None:
            made.append("selector")
            super().__init__()

    monkeypatch.setattr(asyncio, "SelectorEventLoop", Selecting)
    new_loop().close()
    assert made == []
    monkeypatch.setattr(sys, "platform", "win32")
    new_loop().close()
    assert made == ["selector"]


LAST_RESORT = 86_400.0  # seconds after which the process ends, whatever hangs: here it is that of all tests


def test_signals_are_handled_where_the_loop_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    class Process:
        stopped = asyncio.Event()

        def stop(self) -> None:
            self.stopped.set()

        async def run(self) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(self.stopped.wait(), 10)
            return True

    def cannot(*_: object) -> None:
        raise NotImplementedError

    async def main() -> bool:
        monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", cannot, raising=False)
        return await StopSignals().run(Process(), LAST_RESORT)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert asyncio.run(main())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_without_poll_and_without_resource_there_is_another_way(
    app: App, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pools.select, "poll")
    job: Any = app.task(name="t")(lambda: None).enqueue()
    assert app.get(job.id).id == job.id
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert resident_bytes() is None
