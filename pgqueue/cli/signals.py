"""Running a process until a signal stops it."""

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Protocol

from pgqueue.process.supervisor import Supervisor, follow_parent
from pgqueue.worker import Worker

LAST_RESORT = 15.0  # seconds beyond the grace of running jobs


class Stoppable(Protocol):
    """A process: `run` returns whether everything ended, `stop` asks it to end, each further call harder."""

    async def run(self) -> bool: ...
    def stop(self) -> None: ...


async def run_until_signalled(process: Stoppable, last_resort: float) -> bool:
    """Run a process. SIGTERM and SIGINT stop it, each further one harder; `last_resort` seconds after the first signal
    the process exits, whatever hangs. SIGTSTP makes a worker quiet, SIGUSR1 makes it log what it is doing."""
    received = 0

    def on_stop() -> None:
        nonlocal received
        received += 1
        if received > 2:
            exit_now()
        if received == 1:
            # A thread of its own: it must also end a process whose event loop is blocked.
            timer = threading.Timer(last_resort, exit_now)
            timer.daemon = True
            timer.start()
        process.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop)
    if isinstance(process, Worker):
        loop.add_signal_handler(signal.SIGTSTP, process.quiet)
        loop.add_signal_handler(signal.SIGUSR1, process.dump)
    if isinstance(process, Supervisor):
        for number in (signal.SIGTSTP, signal.SIGUSR1):
            loop.add_signal_handler(number, process.forward, number)
    follow_parent(on_stop)
    return await process.run()


def exit_now(why: str = "a third signal, or no time left; other workers rescue the jobs that still run") -> None:
    """End this process at once, without waiting for threads."""
    logging.getLogger("pgqueue").error("exiting at once: %s", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)
