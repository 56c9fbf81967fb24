"""Tells systemd that the process is ready, lives and stops, by the protocol of sd_notify(3)."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from pgqueue.config import NotifySocket, take_notify_socket
from pgqueue.process.duty import hide

LOOK_SECONDS = 0.5  # between two looks whether the process stops
BEATS = 3  # in the time that the watchdog waits for one


class Told(Protocol):
    """A process that can be asked whether it has started and whether it stops."""

    started: asyncio.Event

    @property
    def stops(self) -> bool: ...


@asynccontextmanager
async def told(process: Told, what: str) -> AsyncIterator[None]:
    """Tell systemd about a process while this block lasts, if systemd has started it with `Type=notify`.

    The watchdog is beaten by the event loop itself: a loop that hangs is seen. `what` stands in `systemctl status`.
    """
    given = take_notify_socket()
    if given is None:
        yield
        return
    telling = hide(asyncio.create_task(_tell(given, process, what)))
    try:
        yield
    finally:
        telling.cancel()
        _send(given, "STOPPING=1")


async def _tell(given: NotifySocket, process: Told, what: str) -> None:
    await process.started.wait()
    _send(given, f"READY=1\nSTATUS={what}")
    pause = LOOK_SECONDS if given.watchdog is None else min(given.watchdog / BEATS, LOOK_SECONDS)
    stops = False
    while True:
        if process.stops and not stops:
            stops = True
            _send(given, "STOPPING=1\nSTATUS=the jobs that run may end")
        if given.watchdog is not None:
            _send(given, "WATCHDOG=1")
        await asyncio.sleep(pause)


def _send(given: NotifySocket, message: str) -> None:
    """Send one datagram. If systemd does not read, that holds up nothing."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.connect(given.address)
        sender.send(message.encode())
