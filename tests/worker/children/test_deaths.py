"""The death of a child, of whatever cause, ends one attempt and no more; no child outlives fork server or worker."""

import asyncio
import ctypes
import faulthandler
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgqueue import App
from pgqueue.errors import PgqueueError
from pgqueue.jobs.outcome import Raised
from pgqueue.worker.running.children import Children
from tests.conftest import eventually
from tests.harness import wait_for
from tests.worker.children.scenes import (
    MIB,
    children_of_this_process,
    is_gone,
    job,
    message,
    one,
    own_process,
    parent_of,
    pid_in,
    play,
    value,
)


def quietly() -> None:
    """Keep a child that will crash from writing a core file or a report."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()


def test_a_segmentation_fault_ends_the_attempt_alone(app: App) -> None:
    @app.task(name="task")
    def task() -> None:
        ctypes.string_at(0)

    outcome = one(app, job("task"), on_start=(quietly,))
    assert "was killed by SIGSEGV (pid " in message(outcome)
    assert isinstance(outcome, Raised)
    assert not outcome.permanent


@pytest.mark.parametrize("status", [0, 3])
def test_os_exit_ends_the_attempt_alone(app: App, status: int) -> None:
    @app.task(name="task")
    async def task() -> None:
        os._exit(status)

    text = message(one(app, job("task")))
    assert f"exited with status {status} (pid " in text
    assert text.endswith("before the job ended")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_sys_exit_is_an_error_of_the_attempt_as_in_a_thread(app: App, is_async: bool) -> None:
    async def aexit() -> None:
        sys.exit("enough")

    app.task(name="task")(aexit if is_async else lambda: sys.exit("enough"))
    assert message(one(app, job("task")), "SystemExit") == "enough"


def test_a_kill_from_outside_ends_the_attempt_alone(app: App, tmp_path: Path) -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job("hold", path=str(tmp_path / "pid"))))
        pid = await pid_in(tmp_path / "pid")
        os.kill(pid, signal.SIGKILL)
        assert f"the child process was killed by SIGKILL (pid {pid})" in message(await running)
        assert value(await children.run(job("pid"))) != pid

    play(app, scenario)


def test_a_child_that_is_killed_while_idle_costs_no_attempt(app: App) -> None:
    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: is_gone(pid))
        assert value(await children.run(job("pid"))) != pid

    play(app, scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not enforced elsewhere")
def test_a_memory_error_is_an_error_of_the_attempt(app: App) -> None:
    @app.task(name="task")
    def task() -> None:
        bytearray(4096 * MIB)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2048 * MIB, 2048 * MIB))

    message(one(app, job("task"), on_start=(limit,)), "MemoryError")


def test_a_process_that_a_task_forks_and_lets_run_on_does_not_answer_for_it(app: App) -> None:
    @app.task(name="task")
    def task() -> int:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return pid

    assert value(one(app, job("task"))) != 0


def test_when_the_fork_server_dies_what_runs_has_raised_and_later_calls_are_refused(
    app: App, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job("stubborn", path=str(tmp_path / "pid"))))
        idle = value(await children.run(job("pid")))
        pid = await pid_in(tmp_path / "pid")
        os.kill(parent_of(pid), signal.SIGKILL)
        text = message(await running)
        assert f"(pid {pid}) ended with its fork server" in text
        assert "SIGKILL" in text
        await eventually(lambda: is_gone(pid) and is_gone(idle))
        assert not children.usable
        with pytest.raises(PgqueueError, match=r"fork server .* restart this worker"):
            await children.run(job("pid"))

    play(app, scenario)
    assert "fork server" in caplog.text


def test_a_fork_server_that_died_before_it_was_used_is_found_out_at_the_first_call(app: App) -> None:
    before = children_of_this_process()
    children = Children(app.tasks)
    children.start()
    (fork_server,) = children_of_this_process() - before
    os.kill(fork_server, signal.SIGKILL)
    os.waitid(os.P_PID, fork_server, os.WEXITED | os.WNOWAIT)  # until it has ended, unreaped

    async def run() -> None:
        with pytest.raises(PgqueueError, match="SIGKILL"):
            await children.run(job("pid"))
        await children.close()

    asyncio.run(run())


def test_signals_to_the_whole_process_group_do_not_end_the_fork_server(app: App) -> None:
    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(parent_of(pid), number)
        assert value(await children.run(job("pid"))) == pid

    play(app, scenario)


def test_closing_ends_a_fork_server_that_hangs(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.worker.running.children.GRACE", 0.2)

    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        os.kill(parent_of(pid), signal.SIGSTOP)
        await children.close()
        await eventually(lambda: is_gone(pid))

    play(app, scenario, kill_after=0.1)


HOLD = """
        @app.task(name="hold")
        def hold():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            started = subprocess.Popen(["sleep", "600"])
            tell(started.pid)
            tell()
            while True: signal.pause()
        @app.task(name="idle")
        def idle():
            tell()
        children.start()
        async def main():
            # As in a worker: without a handler of the loop a signal that comes just before it sleeps does not wake it.
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, int)
            jobs = [asyncio.create_task(children.run(job("hold"))) for _ in range(3)]
            await children.run(job("idle"))
            await asyncio.wait(jobs)
        asyncio.run(main())
"""


@contextmanager
def worker_of_its_own(script: str) -> Iterator[subprocess.Popen[str]]:
    command = own_process(script)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def told_pids(worker: subprocess.Popen[str]) -> tuple[int, int]:
    """Wait for a process of that worker to write its pid and that of its parent."""
    assert worker.stdout is not None
    pid, parent = map(int, worker.stdout.readline().split())
    return pid, parent


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_worker_that_was_killed(number: signal.Signals) -> None:
    with worker_of_its_own(HOLD) as worker:
        pids = {pid for _ in range(7) for pid in told_pids(worker)}
        assert len(pids) == 8
        worker.send_signal(number)
        worker.wait(30)
    wait_for(lambda: all(is_gone(pid) for pid in pids))


@pytest.mark.skipif(sys.platform != "linux", reason="without an end of file only Linux tells that a parent has died")
def test_a_worker_whose_socket_somebody_else_holds_takes_its_children_along_too() -> None:
    fork = "if os.fork() == 0:\n            tell()\n            signal.pause()\n        async def main():"
    # Without an idle child, which would end with its channel and so wake the fork server.
    script = HOLD.replace("async def main():", fork).replace('await children.run(job("idle"))', "")
    with worker_of_its_own(script) as worker:
        holder, _ = told_pids(worker)
        try:
            pids = {pid for _ in range(6) for pid in told_pids(worker)}
            worker.kill()
            wait_for(lambda: all(is_gone(pid) for pid in pids))
            assert not is_gone(holder)
        finally:
            os.kill(holder, signal.SIGKILL)


def test_nothing_is_left_of_a_worker_that_ends_without_closing() -> None:
    script = HOLD.replace("await asyncio.wait(jobs)", "os._exit(0)")
    done = subprocess.run(own_process(script), capture_output=True, text=True, timeout=60)
    pids = {int(pid) for line in done.stdout.splitlines() for pid in line.split()}
    assert len(pids) >= 2
    wait_for(lambda: all(is_gone(pid) for pid in pids))
