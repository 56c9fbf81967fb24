"""`pgqueue work` as the first process of a container: in a pid namespace of its own, it reaps and passes signals on."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import DEADLINE, scalar
from tests.harness import ROOT, Conn, insert_job, wait_for

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--pid", "--fork", "true"], check=False, capture_output=True).returncode != 0,
        reason="no pid namespace can be made here",
    ),
]
SHOP = """
import subprocess, pgqueue
app = pgqueue.App()

@app.task(name="leave")
def leave() -> int:
    '''Leaves a process behind that ends after its parent, and runs one of its own.'''
    subprocess.run(["sh", "-c", "(sleep 0.3; touch orphan_ended) & exit 0"], check=True)
    return subprocess.run(["sh", "-c", "exit 7"]).returncode

@app.task(name="hold", timeout=60)
async def hold() -> None:
    import asyncio, pathlib
    pathlib.Path("held").touch()
    await asyncio.sleep(1)
"""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


class Container:
    """A command whose process is the first one in a pid namespace."""

    def __init__(self, directory: Path, process: "subprocess.Popen[bytes]") -> None:
        self._directory = directory
        self._process = process

    @property
    def first(self) -> int:
        """The pid of its first process, as this one sees it."""
        (found,) = children(self._process.pid)
        return found

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def wait(self) -> int:
        return self._process.wait(DEADLINE)


@contextmanager
def container(directory: Path, dsn: str, *arguments: str) -> Iterator[Container]:
    environ = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONPATH": str(ROOT)}
    (directory / "shop.py").write_text(SHOP)
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "pgqueue", *arguments]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=environ, stdout=log, stderr=log, process_group=0)
    try:
        yield Container(directory, process)
    finally:
        process.kill()
        process.wait()


def test_orphans_are_reaped_and_processes_of_tasks_keep_their_status(dsn: str, conn: Conn, tmp_path: Path) -> None:
    job = insert_job(conn, task="leave")
    with container(tmp_path, dsn, "work", "-A", "shop:app") as work:
        wait_for((tmp_path / "orphan_ended").exists, "the end of the orphan")
        wait_for(lambda: len(children(work.first)) == 1, "the worker alone")
        assert state(children(work.first)[0]) != "Z"
        ended = "select result::text from pgqueue.job_finished where id = %s"
        assert wait_for(lambda: scalar(conn, ended, job), "a result") == "7"


def test_sigterm_reaches_the_worker_which_lets_its_job_end(dsn: str, conn: Conn, tmp_path: Path) -> None:
    job = insert_job(conn, task="hold")
    with container(tmp_path, dsn, "work", "-A", "shop:app") as work:
        wait_for((tmp_path / "held").exists, "a job that runs")
        os.kill(work.first, signal.SIGTERM)
        assert work.wait() == 0
        assert "stopped" in work.log()
    assert scalar(conn, "select state from pgqueue.job where id = %s", job) == "succeeded"


@pytest.mark.parametrize("command", ["work", "schedule"])
def test_the_status_is_that_of_the_worker(dsn: str, tmp_path: Path, command: str) -> None:
    with container(tmp_path, dsn, command, "-A", "no_such_module:app") as process:
        assert process.wait() == 78


def test_a_worker_that_is_killed_ends_the_container_with_the_number_of_the_signal(
    dsn: str, conn: Conn, tmp_path: Path
) -> None:
    insert_job(conn, task="hold")
    with container(tmp_path, dsn, "work", "-A", "shop:app") as work:
        wait_for((tmp_path / "held").exists, "a job that runs")
        os.kill(children(work.first)[0], signal.SIGKILL)
        assert work.wait() == 128 + signal.SIGKILL
