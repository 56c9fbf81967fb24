"""An app's own pools: closed event loops, forks, and the end of the process."""

import asyncio
import contextlib
import os
import subprocess
import sys

from pgqueue import App
from tests.conftest import eventually, scalar
from tests.harness import Conn

OWN = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'pgqueue'"


def test_an_event_loop_that_has_ended_leaves_no_connection(app: App, conn: Conn) -> None:
    for _ in range(3):
        with contextlib.suppress(LookupError):
            asyncio.run(app.aget(1))
    app.close()
    # The server sees a closed socket a moment later.
    asyncio.run(eventually(lambda: scalar(conn, OWN) == 0, "the end of the connections"))


def test_a_child_forked_while_a_thread_connects_takes_no_lock_from_it(app: App) -> None:
    pools = app.backend.pools
    with pools._lock:  # as the thread holds it
        child = os.fork()
        if child == 0:
            os._exit(0 if pools._lock.acquire(timeout=5) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_script_that_enqueues_and_exits_leaves_no_thread_to_wait_for(dsn: str, app: App) -> None:
    script = (
        "import atexit, sys, threading\n"  # what is registered first is called last
        "atexit.register(lambda: print([t.name for t in threading.enumerate() if t.name.startswith('pool')]))\n"
        "import pgqueue\n"
        "app = pgqueue.App(sys.argv[1])\n"
        "app.enqueue('x')\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, dsn], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")
