"""Processes that a task starts: they end when they are told to, and the worker goes on."""

import signal
from pathlib import Path

import pytest

from pgqueue import App
from tests.conftest import DEADLINE, scalar
from tests.harness import Conn, Process, wait_for

SHOP = """
import asyncio, concurrent.futures, multiprocessing, os, signal, subprocess, sys, time
import pgqueue

app = pgqueue.App()
fork = multiprocessing.get_context("fork")


def ended_by_sigterm(pid: int) -> bool:
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


def child_ends() -> bool:
    child = fork.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    return child.exitcode == -signal.SIGTERM


@app.task(name="Process", max_attempts=1)
def process() -> bool:
    return child_ends()


@app.task(name="async Process", max_attempts=1)
async def async_process() -> bool:
    return child_ends()


@app.task(name="Pool", max_attempts=1)
def pool() -> bool:
    with fork.Pool(2) as workers:  # terminates them at the end
        return workers.map(abs, [-1, -2]) == [1, 2]


@app.task(name="futures", max_attempts=1)
def futures() -> bool:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as workers:
        return workers.submit(abs, -1).result() == 1


@app.task(name="os.fork", max_attempts=1)
def os_fork() -> bool:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return ended_by_sigterm(pid)


@app.task(name="subprocess", max_attempts=1)
def run_program() -> bool:
    command = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.terminate()
        return child.wait() == -signal.SIGTERM


GIVEN = "PGQUEUE_DSN", "PGQUEUE_TEST_"  # of the tests themselves


@app.task(name="environment", max_attempts=1)
def environment() -> list[str]:
    return sorted(name for name in os.environ if name.startswith("PGQUEUE_") and not name.startswith(GIVEN))
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def test_processes_that_tasks_fork_end_by_sigterm_and_the_worker_goes_on(
    shop: Path, dsn: str, app: App, conn: Conn
) -> None:
    ways = ["Process", "async Process", "Pool", "futures", "os.fork", "subprocess"]
    with Process(shop, dsn, "work", "-A", "shop:app", "-c", "4") as worker:
        jobs = [app.enqueue(way) for way in ways for _ in range(3)]
        assert app.wait_all([job.id for job in jobs], DEADLINE) == [True] * len(jobs)
        worker.signal(signal.SIGTERM)  # it hears its own signals still
        assert worker.wait() == 0


def test_a_workers_tasks_inherit_nothing_of_the_supervisors(shop: Path, dsn: str, app: App) -> None:
    with Process(shop, dsn, "work", "-A", "shop:app", "--processes", "2") as parent:
        assert app.enqueue("environment").wait(DEADLINE) == []
        parent.signal(signal.SIGTERM)
        assert parent.wait() == 0


def test_a_ctrl_c_reaches_a_supervised_worker_once(shop: Path, dsn: str, conn: Conn) -> None:
    """The terminal sends SIGINT to its whole foreground group: the supervisor's children are in groups of their own."""
    code = "import pgqueue, time\napp = pgqueue.App()\n@app.task(name='slow')\ndef slow() -> None: time.sleep(1)\n"
    (shop / "shop.py").write_text(code)
    with Process(shop, dsn, "work", "-A", "shop:app", "--processes", "2") as parent:
        wait_for(lambda: scalar(conn, "select count(*) = 2 from pgqueue.worker where waiting"), "two workers")
        conn.execute("select pgqueue.enqueue('slow')")
        wait_for(lambda: scalar(conn, "select count(*) = 1 from pgqueue.job where state = 'running'"), "it to run")
        parent.signal_group(signal.SIGINT)
        assert parent.wait() == 0
    assert scalar(conn, "select array[state, attempt::text] from pgqueue.job") == ["succeeded", "1"]


def test_a_sigterm_during_the_import_of_the_app_ends_the_worker(shop: Path, dsn: str, conn: Conn) -> None:
    (shop / "shop.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n" + SHOP)
    for command in ("work", "schedule"):
        with Process(shop, dsn, command, "-A", "shop:app") as process:
            assert process.wait() == 0
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0


def test_a_worker_starts_without_unix_signals(shop: Path, dsn: str, app: App) -> None:
    (shop / "pgqueue_on_windows.py").write_text("""
import asyncio.unix_events, runpy, signal, sys

Signals = signal.Signals
del signal.SIGTSTP, signal.SIGUSR1

def refuse(*_):
    raise NotImplementedError

asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = refuse
runpy.run_module("pgqueue", run_name="__main__")
""")
    with Process(shop, dsn, "work", "-A", "shop:app", module="pgqueue_on_windows") as worker:
        assert app.enqueue("environment").wait(DEADLINE) == []
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
