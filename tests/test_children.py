"""Tasks in child processes: real processes, real signals; whatever a child dies of ends one attempt and no more."""

import asyncio
import ctypes
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import eventually
from harness import wait_for

from pgqueue import App, Cancel, Context, Fail, Retry, Snooze
from pgqueue.errors import InvalidOption, PgqueueError
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import (
    AskedRetry,
    Outcome,
    Raised,
    Rejected,
    Snoozed,
    Succeeded,
    UnknownHere,
    Unstarted,
    Withdrawn,
)
from pgqueue.jobs.verdicts import TimedOut
from pgqueue.tasks.context import Signals
from pgqueue.worker.running.child import ChildSettings
from pgqueue.worker.running.children import Children
from pgqueue.worker.running.completion import Completion

T = TypeVar("T")
MIB = 1024 * 1024
NOW = datetime(2026, 11, 20, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def app() -> App:
    """An app that never connects, with the tasks that most tests need."""
    app = App()

    @app.task(name="pid")
    def pid() -> int:
        return os.getpid()

    @app.task(name="hold")
    def hold(path: str) -> None:
        """Say who runs, and run on until killed."""
        announce(path)
        while True:
            signal.pause()

    @app.task(name="stubborn")
    def stubborn(path: str) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        announce(path)
        while True:
            signal.pause()

    return app


def announce(path: str) -> None:
    """Write the pid of this process to a file, whole or not at all."""
    Path(path + ".tmp").write_text(str(os.getpid()))
    Path(path + ".tmp").rename(path)


def job(task: str, attempt: int = 1, headers: str = "{}", **args: Any) -> ClaimedJob:
    return ClaimedJob(
        7, task, "mail", 0, json.dumps(args), ["a", "b"], headers, NOW, NOW, attempt, 3, 12, uuid.uuid4()
    )  # fmt: skip


def play(app: App, scenario: Callable[[Children], Awaitable[T]], **settings: Any) -> T:
    """Start children, run a scenario with them, close them."""
    children = Children(app.tasks, ChildSettings(**settings))
    children.start()

    async def run() -> T:
        try:
            return await scenario(children)
        finally:
            await children.close()

    return asyncio.run(run())


def one(app: App, claimed: ClaimedJob, timeout: float | None = None, **settings: Any) -> Outcome:
    """Run one job in a child, then one more, to see that it is served after whatever the first did."""

    async def scenario(children: Children) -> Outcome:
        outcome = await children.run(claimed, timeout)
        assert isinstance(await children.run(job("pid")), Succeeded)
        return outcome

    return play(app, scenario, **settings)


def value(outcome: Outcome) -> Any:
    """The result of a job that has succeeded."""
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.error is None
    return None if outcome.result is None else json.loads(outcome.result)


def message(outcome: Outcome, kind: str = "pgqueue.ChildDied") -> str:
    """The message of a job that has raised an error of that type."""
    assert isinstance(outcome, Raised), outcome
    assert outcome.error.type == kind
    return outcome.error.message


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not: who inherits an orphan may reap it late."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return not done.stdout.strip() or done.stdout.strip().startswith("Z")


async def pid_in(path: Path) -> int:
    """Wait until a task has announced itself."""
    await eventually(path.exists, f"a task that writes {path}")
    return int(path.read_text())  # noqa: ASYNC240 - a few bytes


def children_of_this_process() -> set[int]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as ps:
        assert ps.stdout is not None
        pairs = [line.split() for line in ps.stdout]
    return {int(pid) for pid, parent in pairs if int(parent) == os.getpid()} - {ps.pid}


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No test leaves a descriptor or a child, ended or not, in this process."""
    open_before, before = descriptors(), children_of_this_process()
    yield
    assert descriptors() <= open_before
    assert children_of_this_process() <= before


# What comes back


def test_a_sync_task_runs_in_another_process_and_its_result_comes_back(app: App) -> None:
    assert value(one(app, job("pid"))) != os.getpid()


def test_an_async_task_runs_on_an_event_loop_of_the_child(app: App) -> None:
    @app.task(name="task")
    async def task(n: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return {"n": n, "waited": await asyncio.sleep(0, True), "pid": os.getpid(), "loop": loop.is_running()}

    result = value(one(app, job("task", n=5)))
    assert (result["n"], result["waited"], result["loop"]) == (5, True, True)
    assert result["pid"] != os.getpid()


def test_a_sync_function_that_returns_a_coroutine_is_awaited(app: App) -> None:
    async def answer() -> int:
        return 42

    @app.task(name="task")
    def task() -> Any:
        return answer()

    assert value(one(app, job("task"))) == 42


def test_a_task_without_a_result_gives_none(app: App) -> None:
    @app.task(name="task")
    def task() -> None: ...

    assert one(app, job("task")) == Succeeded(None)


def test_a_result_that_cannot_be_stored_says_why(app: App) -> None:
    @app.task(name="task")
    def task() -> object:
        return float("nan")

    outcome = one(app, job("task"))
    assert isinstance(outcome, Succeeded)
    assert outcome.error is not None
    assert outcome.error.type == "pgqueue.ResultNotStorable"


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_exception_comes_back_with_its_message_and_the_traceback_of_the_task_alone(app: App, is_async: bool) -> None:
    def fail() -> None:
        raise ValueError("no such order") from KeyError("the cause")

    async def afail() -> None:
        fail()

    app.task(name="task")(afail if is_async else fail)
    outcome = one(app, job("task"))
    assert message(outcome, "ValueError") == "no such order"
    assert isinstance(outcome, Raised)
    assert (outcome.permanent, outcome.reason) == (False, "error")
    traceback = outcome.error.traceback or ""
    assert "in fail" in traceback
    assert "KeyError: 'the cause'" in traceback
    assert "fork server.py" not in traceback


def test_an_error_that_is_not_retried_is_permanent(app: App) -> None:
    @app.task(name="task", retry_on=OSError)
    def task() -> None:
        raise ValueError

    outcome = one(app, job("task"))
    assert isinstance(outcome, Raised)
    assert (outcome.permanent, outcome.reason) == (True, "not retried")


@pytest.mark.parametrize(
    ("verdict", "kind", "seconds", "text"),
    [
        (Retry("busy", delay=2.5), AskedRetry, 2.5, "busy"),
        (Retry("busy"), AskedRetry, None, "busy"),
        (Snooze(60, "not yet"), Snoozed, 60.0, "not yet"),
        (Snooze(float("inf"), "never"), Snoozed, float("inf"), "never"),
        (Fail("no such order"), Rejected, None, "no such order"),
        (Cancel("not wanted"), Withdrawn, None, "not wanted"),
    ],
    ids=["retry after", "retry", "snooze", "snooze for ever", "fail", "cancel"],
)
def test_a_verdict_comes_back_as_what_it_is(
    app: App, verdict: Exception, kind: type, seconds: float | None, text: str
) -> None:
    @app.task(name="task")
    def task() -> None:
        raise verdict

    outcome = one(app, job("task"))
    assert type(outcome) is kind
    assert getattr(outcome, "delay", None) == seconds
    assert text in str(outcome)


def test_invalid_arguments_are_permanent(app: App) -> None:
    outcome = one(app, job("pid", unknown=1))
    assert isinstance(outcome, Raised)
    assert (outcome.permanent, outcome.reason) == (True, "invalid arguments")


def test_a_task_that_was_registered_after_the_start_is_unknown_in_the_children(app: App) -> None:
    async def scenario(children: Children) -> Outcome:
        app.task(name="late")(lambda: None)
        return await children.run(job("late"))

    assert play(app, scenario) == UnknownHere()


def test_the_context_is_that_of_the_job_with_the_deadline_of_the_worker(app: App) -> None:
    @app.task(name="task")
    def task(ctx: Context) -> list[Any]:
        left = ctx.remaining
        assert left is not None
        assert (ctx.run_at, ctx.created_at) == (NOW, NOW)
        numbers = [ctx.job_id, ctx.attempt, ctx.max_attempts, 0 < left <= 60]
        return [*numbers, ctx.task, ctx.queue, list(ctx.tags), ctx.headers]

    async def scenario(children: Children) -> Outcome:
        signals = Signals(deadline=time.monotonic() + 60)
        return await children.run(job("task", 2, '{"x": 1}'), signals=signals)

    assert value(play(app, scenario)) == [7, 2, 3, True, "task", "mail", ["a", "b"], {"x": 1}]


class Done(Completion):
    """A completion without a database."""

    @contextmanager
    def transaction(self, result: Any) -> Iterator[Any]:
        """Note that the block has ended."""
        yield None
        self._signals.completed = True


@pytest.mark.parametrize("completes", [True, False])
def test_whether_the_child_completed_the_job_itself_comes_back(app: App, completes: bool) -> None:
    @app.task(name="task")
    def task(ctx: Context) -> None:
        if completes:
            with ctx.transaction():
                pass

    async def scenario() -> Signals:
        signals = Signals()
        assert await children.run(job("task"), signals=signals) == Succeeded(None)
        await children.close()
        return signals

    children = Children(app.tasks, completer=partial(Done, app))
    children.start()
    assert asyncio.run(scenario()).completed is completes


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "\U0001f40d\u2028"], ids=["NUL", "surrogate", "wide"])
def test_any_text_in_an_error_arrives(app: App, text: str) -> None:
    @app.task(name="task")
    def task() -> None:
        raise ValueError(text)

    told = message(one(app, job("task")), "ValueError")
    assert told == text.replace("\x00", "\\x00").replace("\ud800", "\\ud800")


def test_arguments_and_results_of_five_megabytes_arrive(app: App) -> None:
    @app.task(name="task")
    def task(text: str) -> str:
        return text[::-1]

    text = "abcdefghij" * 500_000
    assert value(one(app, job("task", text=text))) == text[::-1]


def test_what_a_task_prints_disturbs_nothing_and_is_not_lost(app: App, capfd: pytest.CaptureFixture[str]) -> None:
    @app.task(name="task")
    def task() -> None:
        print("\x00" * 5 + "printed")
        os.write(1, b"written\n")

    assert one(app, job("task")) == Succeeded(None)
    out = capfd.readouterr().out
    assert out.count("printed") == 1
    assert "written" in out


def test_what_the_worker_has_not_yet_written_out_is_written_once() -> None:
    script = """
        @app.task(name="task")
        def task():
            print("from the child")
        print("from the worker")
        children.start()
        async def main():
            await children.run(job("task"))
            await children.close()
        asyncio.run(main())
    """
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(own_process(script), capture_output=True, text=True, timeout=60, env=buffered)
    assert done.stdout.split("\n") == ["from the worker", "from the child", ""], done.stderr


# What a child is


def test_a_child_reads_nothing_from_the_terminal_and_has_its_own_process_group(app: App) -> None:
    @app.task(name="task")
    def task() -> list[Any]:
        return [sys.stdin.read(), os.read(0, 10).decode(), os.getpgrp() == os.getpid()]

    assert value(one(app, job("task"))) == ["", "", True]


def test_a_child_has_default_signal_handlers_and_ignores_an_interrupt(app: App) -> None:
    @app.task(name="task")
    def task() -> list[Any]:
        signal.raise_signal(signal.SIGINT)
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return [*(signal.getsignal(n) == signal.SIG_DFL for n in numbers), len(blocked), signal.set_wakeup_fd(-1)]

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert value(one(app, job("task"))) == [True, True, True, True, 0, -1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_children_start_with_different_random_numbers(app: App) -> None:
    @app.task(name="task")
    def task() -> float:
        return random.random()

    async def scenario(children: Children) -> set[Any]:
        return {value(await children.run(job("task"))) for _ in range(3)}

    assert len(play(app, scenario, max_jobs=1)) == 3


def test_a_child_runs_no_handler_or_finalizer_of_the_worker() -> None:
    script = """
        import atexit, gc, weakref
        class Thing:
            def __del__(self):
                print("deleted", os.getpid() == worker)
        gc.disable()
        worker = os.getpid()
        lost = Thing()
        lost.itself = lost
        del lost
        kept = Thing()
        weakref.finalize(kept, lambda: print("finalized", os.getpid() == worker))
        atexit.register(lambda: print("at exit", os.getpid() == worker))
        @app.task(name="task")
        def task():
            gc.collect()
        children.start()
        async def main():
            await children.run(job("task"))
            await children.close()
        asyncio.run(main())
        gc.collect()
    """
    done = subprocess.run(own_process(script), capture_output=True, text=True, timeout=60)
    assert set(done.stdout.splitlines()) == {"at exit True", "deleted True", "finalized True"}, done.stderr


def test_children_have_no_descriptors_of_the_worker_or_of_each_other(app: App, tmp_path: Path) -> None:
    @app.task(name="task")
    def task() -> int:
        return descriptors()

    async def scenario(children: Children) -> list[int]:
        first = value(await children.run(job("task")))
        others = [asyncio.create_task(children.run(job("hold", path=str(tmp_path / str(n))))) for n in range(3)]
        for n in range(3):
            await pid_in(tmp_path / str(n))
        last = value(await children.run(job("task")))
        for other in others:
            other.cancel()
        await asyncio.wait(others)
        return [first, last]

    first, last = play(app, scenario)
    assert first == last


def test_children_can_be_started_from_a_running_event_loop(app: App) -> None:
    @app.task(name="task")
    async def task() -> bool:
        return await asyncio.to_thread(lambda: True)

    async def scenario() -> Outcome:
        children = Children(app.tasks)
        children.start()
        try:
            return await children.run(job("task"))
        finally:
            await children.close()

    assert value(asyncio.run(scenario())) is True


def test_threads_that_run_at_the_start_are_named_in_the_log(app: App, caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="somebody-elses")
    thread.start()
    try:
        assert value(one(app, job("pid")))
    finally:
        over.set()
        thread.join()
    assert "somebody-elses" in caplog.text


# What kills it


def quietly() -> None:
    """A child that is to crash writes no core file and no report."""
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

    told = message(one(app, job("task")))
    assert f"exited with status {status} (pid " in told
    assert told.endswith("before the job ended")


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


# Timeouts, cancelling, closing


@pytest.mark.parametrize(("task", "end"), [("hold", "SIGTERM"), ("stubborn", "SIGKILL")])
def test_a_job_that_runs_too_long_is_terminated_and_killed_if_it_ignores_that(
    app: App, tmp_path: Path, task: str, end: str
) -> None:
    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        outcome = await children.run(job(task, path=str(tmp_path / "pid")), timeout=1)
        told = message(outcome, "pgqueue.TimedOut")
        assert "ran longer than 1 s" in told
        assert f"was killed by {end} (pid {pid})" in told
        assert isinstance(outcome, Raised)
        assert (outcome.permanent, outcome.reason) == (False, "timeout")
        assert is_gone(pid)
        assert value(await children.run(job("pid"))) != pid

    play(app, scenario, kill_after=0.1)


def test_a_timeout_is_permanent_for_a_task_that_says_so(app: App) -> None:
    @app.task(name="task", no_retry_on=TimedOut)
    def task() -> None:
        signal.pause()

    outcome = one(app, job("task"), timeout=0.1)
    assert isinstance(outcome, Raised)
    assert outcome.permanent


def test_what_a_task_returns_after_its_timeout_is_not_taken(app: App) -> None:
    @app.task(name="task")
    def task() -> str:
        over = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        over.wait()
        return "late"

    async def scenario(children: Children) -> None:
        message(await children.run(job("task"), 0.5), "pgqueue.TimedOut")
        assert value(await children.run(job("pid")))

    play(app, scenario, kill_after=0.5)


def test_what_a_task_has_started_ends_with_its_child(app: App, tmp_path: Path) -> None:
    @app.task(name="task")
    def task(path: str) -> None:
        script = f"import os, signal; signal.signal(15, signal.SIG_IGN); open({path!r}, 'w').write(str(os.getpid()))"
        subprocess.run([sys.executable, "-c", script + "\nwhile True: signal.pause()"])

    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job("task", path=str(tmp_path / "pid"))))
        await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        running.cancel()
        await asyncio.wait([running])
        pid = int((tmp_path / "pid").read_text())
        await eventually(lambda: is_gone(pid))

    play(app, scenario)


@pytest.mark.parametrize("task", ["hold", "stubborn"])
def test_cancelling_ends_the_child_before_it_is_raised(app: App, tmp_path: Path, task: str) -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job(task, path=str(tmp_path / "pid"))))
        pid = await pid_in(tmp_path / "pid")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert is_gone(pid)
        assert value(await children.run(job("pid"))) != pid

    play(app, scenario, kill_after=0.1)


def test_a_second_cancellation_does_not_wait_and_the_child_is_ended_all_the_same(app: App, tmp_path: Path) -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job("stubborn", path=str(tmp_path / "pid"))))
        pid = await pid_in(tmp_path / "pid")
        for _ in range(2):
            running.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
        assert running.done()
        assert not is_gone(pid)
        await eventually(lambda: is_gone(pid))

    play(app, scenario, kill_after=1)


def test_cancelling_before_the_child_is_born_leaves_none(app: App) -> None:
    async def scenario(children: Children) -> None:
        for ticks in range(6):
            running = asyncio.create_task(children.run(job("pid")))
            for _ in range(ticks):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running])
        assert value(await children.run(job("pid")))

    play(app, scenario)


@pytest.mark.parametrize("task", ["hold", "stubborn"])
def test_closing_stops_what_runs_and_gives_it_back_as_unstarted(app: App, tmp_path: Path, task: str) -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job(task, path=str(tmp_path / "pid"))))
        idle = value(await children.run(job("pid")))
        pid = await pid_in(tmp_path / "pid")
        await children.close()
        assert running.done()
        assert await running == Unstarted()
        assert is_gone(pid)
        assert is_gone(idle)
        with pytest.raises(PgqueueError, match="closed"):
            await children.run(job("pid"))

    play(app, scenario, kill_after=0.1)


def test_kill_all_gives_back_what_runs_and_more_can_run_afterwards(app: App, tmp_path: Path) -> None:
    async def scenario(children: Children) -> None:
        idle = value(await children.run(job("pid")))
        paths = [tmp_path / str(n) for n in range(3)]
        running = [asyncio.create_task(children.run(job("stubborn", path=str(path)))) for path in paths]
        for path in paths:
            await pid_in(path)
        children.kill_all()
        assert await asyncio.gather(*running) == [Unstarted()] * 3
        assert value(await children.run(job("pid"))) != idle

    play(app, scenario)


def test_closing_what_was_never_started_or_used_does_nothing(app: App) -> None:
    asyncio.run(Children(app.tasks).close())
    children = Children(app.tasks)
    children.start()
    asyncio.run(children.close())
    assert not children.usable


def test_running_before_the_start_is_refused(app: App) -> None:
    with pytest.raises(PgqueueError, match=r"call start\(\)"):
        asyncio.run(Children(app.tasks).run(job("pid")))


@pytest.mark.parametrize(
    "bad", [{"max_jobs": 0}, {"max_memory_mib": -1}, {"kill_after": -1}, {"kill_after": float("nan")}]
)
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(bad))):
        ChildSettings(**bad)


# Reuse and replacement


def test_a_child_that_idles_is_used_again(app: App) -> None:
    async def scenario(children: Children) -> set[Any]:
        return {value(await children.run(job("pid"))) for _ in range(10)}

    assert len(play(app, scenario)) == 1


def test_as_many_children_run_as_jobs_are_run_at_a_time(app: App, tmp_path: Path) -> None:
    @app.task(name="meet")
    def meet(name: str, number: int) -> int:
        (tmp_path / name).touch()
        wait_for(lambda: len(list(tmp_path.iterdir())) == number)
        return os.getpid()

    async def scenario(children: Children) -> set[Any]:
        jobs = [children.run(job("meet", name=str(n), number=20)) for n in range(20)]
        pids = {value(outcome) for outcome in await asyncio.gather(*jobs)}
        again = {value(await children.run(job("pid"))) for _ in range(10)}
        assert again <= pids
        return pids

    assert len(play(app, scenario)) == 20


def test_a_child_is_replaced_after_max_jobs(app: App) -> None:
    async def scenario(children: Children) -> list[Any]:
        return [value(await children.run(job("pid"))) for _ in range(6)]

    pids = play(app, scenario, max_jobs=2)
    assert pids[::2] == pids[1::2]
    assert len(set(pids)) == 3


def test_a_child_that_has_grown_is_replaced(app: App) -> None:
    kept: list[bytes] = []

    @app.task(name="grow")
    def grow() -> int:
        kept.append(b"x" * 300 * MIB)
        return os.getpid()

    async def scenario(children: Children) -> None:
        small = value(await children.run(job("pid")))
        assert value(await children.run(job("grow"))) == small
        fresh = value(await children.run(job("pid")))
        assert fresh != small
        assert value(await children.run(job("pid"))) == fresh

    play(app, scenario, max_memory_mib=350)


def test_what_is_to_run_at_the_start_runs_once_in_each_child(app: App) -> None:
    ran: list[int] = []

    @app.task(name="task")
    def task() -> list[int]:
        return [*ran, os.getpid()]

    async def scenario(children: Children) -> list[Any]:
        return [value(await children.run(job("task"))) for _ in range(4)]

    answers = play(app, scenario, on_start=(lambda: ran.append(os.getpid()),), max_jobs=2)
    assert all(at_start == [pid] for *at_start, pid in answers)
    assert len({pid for *_, pid in answers}) == 2
    assert ran == []


@pytest.mark.parametrize("error", [RuntimeError("no model"), SystemExit("no model")], ids=["error", "exit"])
def test_a_failure_at_the_start_is_the_error_of_the_attempt_and_is_tried_again_in_a_new_child(
    app: App, tmp_path: Path, error: BaseException
) -> None:
    def load() -> None:
        if not (tmp_path / "model").exists():
            raise error

    async def scenario(children: Children) -> None:
        outcome = await children.run(job("pid"))
        assert message(outcome, type(error).__name__) == "no model"
        assert isinstance(outcome, Raised)
        assert "in load" in (outcome.error.traceback or "")
        (tmp_path / "model").touch()
        assert value(await children.run(job("pid")))

    play(app, scenario, on_start=(load,))


def test_two_hundred_jobs_in_new_and_old_children_leave_no_descriptor(app: App) -> None:
    @app.task(name="die")
    def die() -> None:
        os._exit(1)

    async def scenario(children: Children) -> None:
        await children.run(job("pid"))
        before = descriptors()
        for _ in range(50):
            await asyncio.gather(*(children.run(job(name)) for name in ("pid", "pid", "die", "none")))
        # Idle ones keep a channel each; the outcome of one that is replaced comes before its death is told.
        await eventually(lambda: descriptors() <= before + 3)

    play(app, scenario, max_jobs=5)


# The fork server, and the worker's own death


def test_when_the_nursery_dies_what_runs_has_raised_and_later_calls_are_refused(
    app: App, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(children: Children) -> None:
        running = asyncio.create_task(children.run(job("stubborn", path=str(tmp_path / "pid"))))
        idle = value(await children.run(job("pid")))
        pid = await pid_in(tmp_path / "pid")
        os.kill(parent_of(pid), signal.SIGKILL)
        told = message(await running)
        assert f"(pid {pid}) ended with its fork server" in told
        assert "SIGKILL" in told
        await eventually(lambda: is_gone(pid) and is_gone(idle))
        assert not children.usable
        with pytest.raises(PgqueueError, match=r"fork server .* restart this worker"):
            await children.run(job("pid"))

    play(app, scenario)
    assert "fork server" in caplog.text


def test_a_nursery_that_died_before_it_was_used_is_found_out_at_the_first_call(app: App) -> None:
    before = children_of_this_process()
    children = Children(app.tasks)
    children.start()
    (fork_server,) = children_of_this_process() - before
    os.kill(fork_server, signal.SIGKILL)
    wait_for(lambda: is_gone(fork_server))

    async def run() -> None:
        with pytest.raises(PgqueueError, match="SIGKILL"):
            await children.run(job("pid"))
        await children.close()

    asyncio.run(run())


def test_signals_to_the_whole_process_group_do_not_end_the_nursery(app: App) -> None:
    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(parent_of(pid), number)
        assert value(await children.run(job("pid"))) == pid

    play(app, scenario)


def test_closing_ends_a_nursery_that_hangs(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.worker.running.children.GRACE", 0.2)

    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        os.kill(parent_of(pid), signal.SIGSTOP)
        await children.close()
        await eventually(lambda: is_gone(pid))

    play(app, scenario, kill_after=0.1)


def parent_of(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))


PROLOGUE = """
import asyncio, os, signal, subprocess, sys, uuid
from datetime import datetime, UTC
from pgqueue import App
from pgqueue.jobs.job import ClaimedJob
from pgqueue.worker.running.child import ChildSettings
from pgqueue.worker.running.children import Children

app = App()
children = Children(app.tasks, ChildSettings(kill_after=0.2))

def job(task):
    now = datetime.now(UTC)
    return ClaimedJob(1, task, "default", 0, "{}", [], "{}", now, now, 1, 3, 1, uuid.uuid4())

def tell(pid=None):
    pids = (pid, os.getpid()) if pid else (os.getpid(), os.getppid())
    os.write(1, f"{pids[0]} {pids[1]}\\n".encode())

"""


def own_process(script: str) -> list[str]:
    """The command that runs a script with an app and children in a process of its own."""
    indent = len(script) - len(script.lstrip("\n ")) - 1
    lines = [line[indent:] for line in script.splitlines()]
    return [sys.executable, "-W", "error", "-c", PROLOGUE + "\n".join(lines)]


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
    """Wait for a process of that worker to tell its pid and its parent's."""
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
    # Without an idle child: that one ends when its own channel does, and wakes the fork server.
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
