"""Scenes with children: jobs, how to run them and read their outcomes, and which processes live."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pgqueue import App
from pgqueue.jobs.job import ClaimedJob
from pgqueue.jobs.outcome import Outcome, Raised, Succeeded
from pgqueue.worker.running.child import ChildSettings
from pgqueue.worker.running.children import Children
from tests.conftest import eventually

T = TypeVar("T")
MIB = 1024 * 1024
NOW = datetime(2026, 11, 20, 12, 30, 15, 123456, tzinfo=UTC)


def announce(path: str) -> None:
    """Write the pid of this process to a file, atomically."""
    Path(path + ".tmp").write_text(str(os.getpid()))
    Path(path + ".tmp").rename(path)


def job(task: str, attempt: int = 1, headers: str = "{}", **args: Any) -> ClaimedJob:
    return ClaimedJob(
        7, task, "mail", 0, json.dumps(args), ["a", "b"], headers, NOW, NOW, attempt, 3, 12, 0.0, None, None,
        uuid.uuid4(),
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
    """Run one job in a child, then another, to see that the second runs whatever the first did."""

    async def scenario(children: Children) -> Outcome:
        outcome = await children.run(claimed, timeout)
        assert isinstance(await children.run(job("pid")), Succeeded)
        return outcome

    return play(app, scenario, **settings)


def value(outcome: Outcome) -> Any:
    """Return the result of a job; it must have succeeded."""
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.error is None
    return None if outcome.result is None else json.loads(outcome.result)


def message(outcome: Outcome, kind: str = "pgqueue.ChildDied") -> str:
    """Return the message of a job's error, which must be of that type."""
    assert isinstance(outcome, Raised), outcome
    assert outcome.error.type == kind
    return outcome.error.message


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not: the process that inherits an orphan may reap it late."""
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
    return ClaimedJob(1, task, "default", 0, "{}", [], "{}", now, now, 1, 3, 1, 0.0, None, None, uuid.uuid4())

def tell(pid=None):
    pids = (pid, os.getpid()) if pid else (os.getpid(), os.getppid())
    os.write(1, f"{pids[0]} {pids[1]}\\n".encode())

"""


def own_process(script: str) -> list[str]:
    """Return the command that runs a script with an app and children in a process of its own."""
    indent = len(script) - len(script.lstrip("\n ")) - 1
    lines = [line[indent:] for line in script.splitlines()]
    return [sys.executable, "-W", "error", "-c", PROLOGUE + "\n".join(lines)]
