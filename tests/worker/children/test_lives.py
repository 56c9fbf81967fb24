"""The life of a child: what it has of the worker, how many jobs it runs, and when another takes its place."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App
from pgqueue.jobs.outcome import Outcome, Raised
from pgqueue.worker.running.children import Children
from tests.conftest import eventually
from tests.harness import wait_for
from tests.worker.children.scenes import MIB, descriptors, job, message, one, own_process, pid_in, play, value


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
        # Each idle child keeps a channel; the outcome of a replaced child arrives before its death is reported.
        await eventually(lambda: descriptors() <= before + 3)

    play(app, scenario, max_jobs=5)
