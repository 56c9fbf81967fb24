"""Waiting under gevent, where each thread is a greenlet and an event loop in one would be the running loop of all."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from pgqueue import App, DatabaseUnreachable, JobWasCancelled, WaitTimeout
from pgqueue.client.wait_poller import WaitPoller
from tests.client.waiting.looks import CONNECTIONS, CUT
from tests.conftest import DEADLINE, drain, scalar
from tests.harness import Conn, InThread, wait_for

GREENLETS = """
from gevent import monkey; monkey.patch_all()
import asyncio, sys, gevent, pgqueue
app = pgqueue.App(sys.argv[1])
job = app.enqueue("t")
waiting = gevent.spawn(job.wait, 20)
while not (app.waits._hub and app.waits._hub.snapshot(job.id)):
    gevent.sleep(0.01)
assert gevent.spawn(asyncio.run, asyncio.sleep(0, "ok")).get() == "ok"
app.cancel(job.id)
try:
    waiting.get()
except pgqueue.JobWasCancelled:
    print("cancelled")
app.close()
"""


@pytest.fixture
def greenlets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes itself for one of gevent; its threads are real ones."""
    monkeypatch.setitem(sys.modules, "gevent.monkey", SimpleNamespace(is_module_patched=lambda name: True))  # type: ignore[arg-type]


@pytest.mark.usefixtures("greenlets")
def test_it_polls_and_closes_its_connection_when_no_job_is_waited_for(app: App, conn: Conn) -> None:
    app.task(name="t")(lambda: "done")
    jobs = [app.enqueue("t") for _ in range(3)]
    with pytest.raises(WaitTimeout, match="it was pending when last seen"):
        jobs[0].wait(0.2)
    waiting = [InThread(lambda job=job: job.wait(DEADLINE)) for job in jobs]
    wait_for(lambda: app.waits._hub and all(app.waits._hub.snapshot(job.id) for job in jobs), "a look")
    assert isinstance(app.waits._hub, WaitPoller)
    assert scalar(conn, CONNECTIONS) == 1
    app.cancel(jobs[2].id)
    drain(app, conn)
    assert [each.result() for each in waiting[:2]] == ["done", "done"]
    with pytest.raises(JobWasCancelled):
        waiting[2].result()
    wait_for(lambda: scalar(conn, CONNECTIONS) == 0, "the connection to close")
    assert not app.waits._hub._unregistered, "of a wait that has ended nothing stays"


@pytest.mark.usefixtures("greenlets")
def test_a_lost_connection_is_made_again_and_a_closed_app_ends_the_waits(app: App, conn: Conn) -> None:
    job = app.enqueue("t")
    waiting = InThread(lambda: job.wait(DEADLINE))
    wait_for(lambda: app.waits._hub and app.waits._hub.snapshot(job.id), "a look")
    assert scalar(conn, CUT) == 1
    wait_for(lambda: scalar(conn, CONNECTIONS) == 1, "another connection")
    app.close()
    with pytest.raises(DatabaseUnreachable, match="the app was closed"):
        waiting.result()
    with pytest.raises(DatabaseUnreachable):
        App("postgresql://127.0.0.1:1/x").wait(1)


def test_other_greenlets_run_loops_of_their_own(dsn: str) -> None:
    pytest.importorskip("gevent")
    done = subprocess.run([sys.executable, "-c", GREENLETS, dsn], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("cancelled", 0), done.stderr
