"""What the doctor says of processes that really hang, die or are missing."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgqueue import App
from tests.conftest import scalar
from tests.doctor.looks import found
from tests.harness import Conn, Process, wait_for

SHOP = """
import time
import pgqueue
app = pgqueue.App()

@app.task(name="blocks")
async def blocks() -> None:
    time.sleep(60)
"""


@pytest.fixture
def working(tmp_path: Path, dsn: str, conn: Conn) -> Iterator[Process]:
    """A worker whose lease is short."""
    (tmp_path / "shop.py").write_text(SHOP)
    with Process(tmp_path, dsn, "work", "-A", "shop:app", "--lease", "2") as process:
        process.alive_until(lambda: scalar(conn, "select count(*) = 1 from pgqueue.worker"), "the worker's row")
        yield process


def test_a_worker_whose_event_loop_a_task_blocks_is_found(app: App, working: Process) -> None:
    assert found(app, "event-loop-blocked") == []
    app.enqueue("blocks")

    def longer() -> list[str]:
        return [each.what for each in found(app, "event-loop-blocked") if "longer than" in each.what]

    working.alive_until(longer, "the block")
    (finding,) = found(app, "event-loop-blocked")
    assert re.match(rf"the event loop of worker \S+:{working.pid} was blocked for \d+ s", finding.what)
    assert found(app, "worker-lost") == []  # the heartbeat has a thread of its own


def test_the_last_worker_that_was_killed_is_found_though_nobody_declares_it_lost(app: App, working: Process) -> None:
    assert found(app, "worker-lost") == []
    working.kill()
    wait_for(lambda: found(app, "worker-lost"), "the end of its lease")
    assert f":{working.pid} has not beaten for its whole lease" in found(app, "worker-lost")[0].what
