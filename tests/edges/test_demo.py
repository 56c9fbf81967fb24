"""`pgqueue demo` runs on an embedded Postgres, and its checks hold."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from pgqueue.demo import shop
from pgqueue.demo.report import JOBS, PlacedOrders, check_everything
from tests.conftest import scalar
from tests.harness import Process, wait_for


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The demo, and what it prints. It takes its time, so that one can watch: other tests run beside it."""
    printed = tmp_path_factory.mktemp("demo") / "printed"
    with printed.open("wb") as out:
        command = [sys.executable, "-m", "pgqueue", "demo"]
        with subprocess.Popen(command, stdout=out, stderr=out, process_group=0) as process:
            yield process, printed
            process.terminate()


@pytest.mark.servers
@pytest.mark.usefixtures("demo")  # it has begun when that of the next test is asked for
def test_the_demo_leaves_its_shop_and_dashboard_open() -> None:
    command = [sys.executable, "-m", "pgqueue", "demo", "--web", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        try:
            link = next(line.split()[-1] for line in said if "the dashboard is on" in line)
            with httpx.Client(follow_redirects=True) as browser:
                assert "pgqueue demo" in browser.get(link).text
                dead = browser.get(link.partition("?")[0] + "jobs?state=failed").text
                assert "shop." in dead
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert "Traceback" not in "".join(said)
            assert process.wait() == 0
        finally:
            process.kill()


def test_the_demo_holds(demo: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, printed = demo
    assert process.wait(180) == 0, printed.read_text()
    assert "Everything holds" in printed.read_text()
    assert JOBS in printed.read_text()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with Process(tmp_path, "", "demo") as process:
        process.alive_until(lambda: re.search(r"pgqueue demo in (/\S+)", process.log()), "the directory")
        found = re.search(r"pgqueue demo in (/\S+)", process.log())
        assert found is not None
        directory = Path(found[1])
        process.alive_until((directory / "worker-2.log").exists, "the workers to be started")
        server = int((directory / "postgres" / "postmaster.pid").read_text().split()[0])
        process.signal_group(number)
        process.signal_group(number)  # of a terminal that closes, the kernel sends one, and so does the shell
        process.wait()
    wait_for(lambda: not Path(f"/proc/{server}").exists(), "Postgres to end")
    assert not directory.exists()


def test_the_demo_fails_when_something_does_not_hold(dsn: str, tmp_path: pytest.TempPathFactory) -> None:
    directory = Path(str(tmp_path))
    (directory / "received.jsonl").write_text('{"order": 2, "key": "job-1"}\n')
    placed = PlacedOrders(frozenset({1}), frozenset({2}), 3, directory / "received.jsonl", directory)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(shop.TABLES.encode())
        assert scalar(conn, "select count(*) from shop.orders") == 0
        results = check_everything(conn, placed)
    assert all(check.wrong for check in results)
    webhooks = next(check for check in results if check.title.startswith("webhooks"))
    assert "lost [1], ghosts [2]" in (webhooks.wrong or "")
