"""An outage of the database of two minutes: no probe lets Kubernetes restart a worker or a scheduler."""

import asyncio
import http.client
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from pgqueue import migrate
from tests.conftest import scalar
from tests.harness import Process, wait_for
from tests.stress.server import OwnServer, free_port

OUTAGE = 120.0
FAILURE_THRESHOLD = 3  # probes in a row, a second apart and of a second at most
SHOP = """
import pgqueue
app = pgqueue.App()

@app.schedule(2)
@app.task(name="tick")
def tick() -> None: ...
"""


@pytest.fixture
def server() -> Iterator[OwnServer]:
    server = OwnServer()
    yield server
    server.stop()


class Kubelet:
    """Asks `/live` and `/ready` of a process each second, and counts as Kubernetes does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._failed_in_a_row = Counter[str]()
        self.worst = Counter[str]()  # the longest row of failures
        self.asked = Counter[str]()

    def ask(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
        try:
            connection.request("GET", path)
            good = connection.getresponse().status == 200
        except OSError:
            good = False
        finally:
            connection.close()
        self.asked[path] += 1
        self._failed_in_a_row[path] = 0 if good else self._failed_in_a_row[path] + 1
        self.worst[path] = max(self.worst[path], self._failed_in_a_row[path])
        return good

    async def watch(self, over: asyncio.Event) -> None:
        while not over.is_set():
            for path in ("/live", "/ready"):
                await asyncio.to_thread(self.ask, path)
            await asyncio.sleep(1)


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_no_probe_restarts_a_process_while_the_database_is_down(server: OwnServer, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    dsn, ports = server.dsn(), {"work": free_port(), "schedule": free_port()}
    migrate.upgrade(dsn)
    kubelets = {command: Kubelet(port) for command, port in ports.items()}

    async def outage() -> None:
        over = asyncio.Event()
        watching = [asyncio.create_task(kubelet.watch(over)) for kubelet in kubelets.values()]
        await server.restart("immediate", OUTAGE)
        await asyncio.sleep(5)
        over.set()
        await asyncio.gather(*watching)

    with ExitStack() as stack:
        processes = {
            command: stack.enter_context(
                Process(tmp_path, dsn, command, "-A", "shop:app", "--health-port", str(port), "--lease", "10")
            )
            for command, port in ports.items()
        }
        for command, process in processes.items():
            process.alive_until(lambda command=command: kubelets[command].ask("/ready"), f"{command} to be ready")  # type: ignore[misc]
        pids = {command: process.pid for command, process in processes.items()}
        for kubelet in kubelets.values():
            kubelet.worst.clear()
            kubelet.asked.clear()
        asyncio.run(outage())
        for command, kubelet in kubelets.items():
            asked, worst = dict(kubelet.asked), dict(kubelet.worst)
            print(f"{command}: asked {asked}, failures in a row {worst}, pid {pids[command]}")
            assert processes[command].running, processes[command].log()
            assert kubelet.asked["/live"] > OUTAGE / 3
            assert kubelet.worst["/live"] < FAILURE_THRESHOLD
            assert kubelet.worst["/ready"] >= FAILURE_THRESHOLD
        for command, process in processes.items():
            process.alive_until(lambda command=command: kubelets[command].ask("/ready"), f"{command} to be ready again")  # type: ignore[misc]
        with psycopg.connect(dsn, autocommit=True) as conn:
            before = scalar(conn, "select now()")
            done = "select count(*) from pgqueue.job_finished where finished_at > %s"
            wait_for(lambda: scalar(conn, done, before), "a job that runs after the outage")
