"""Running a process until a signal stops it."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from pgqueue.process.supervisor import follow_parent

LAST_RESORT = 15.0  # seconds a process has to exit after the time that running jobs have
Handlers = Mapping[signal.Signals, Callable[[], object]]


class Stoppable(Protocol):
    """A process. `run` returns whether everything ended; `stop` asks it to end, each further call more forcibly."""

    async def run(self) -> bool: ...
    def stop(self) -> None: ...


async def run_until_signalled(process: Stoppable, last_resort: float, handlers: Handlers | None = None) -> bool:
    """Run a process. SIGTERM, SIGINT and the end of a supervisor stop it; the third of them exits at once.

    `last_resort` seconds after the first of them the process exits, whatever hangs. `handlers` are for other signals.
    """
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
    for number, handler in (handlers or {}).items():
        loop.add_signal_handler(number, handler)
    follow_parent(on_stop)
    return await process.run()


def exit_now(why: str = "a third signal, or no time left; other workers rescue the jobs that still run") -> None:
    """End this process at once, without waiting for threads."""
    logging.getLogger("pgqueue").error("exiting at once: %s", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)
