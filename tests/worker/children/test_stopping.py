"""Stopping children: timeouts, cancelling, closing, and settings that make no sense."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pgqueue import App
from pgqueue.errors import InvalidOption, PgqueueError
from pgqueue.jobs.outcome import Raised, Unstarted
from pgqueue.jobs.verdicts import TimedOut
from pgqueue.worker.running.child import ChildSettings
from pgqueue.worker.running.children import Children
from tests.conftest import eventually
from tests.worker.children.scenes import is_gone, job, message, one, pid_in, play, value


@pytest.mark.parametrize(("task", "end"), [("hold", "SIGTERM"), ("stubborn", "SIGKILL")])
def test_a_job_that_runs_too_long_is_terminated_and_killed_if_it_ignores_that(
    app: App, tmp_path: Path, task: str, end: str
) -> None:
    async def scenario(children: Children) -> None:
        pid = value(await children.run(job("pid")))
        outcome = await children.run(job(task, path=str(tmp_path / "pid")), timeout=1)
        text = message(outcome, "pgqueue.TimedOut")
        assert "ran longer than 1 s" in text
        assert f"was killed by {end} (pid {pid})" in text
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
