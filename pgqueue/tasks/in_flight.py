"""Which calls of steps and waits of one attempt are in flight: one ends the attempt only when all others stand."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """Counts the calls of one attempt, in threads and on event loops.

    A call that is to end the attempt lets the others finish first. If it did not, a wait beside it could take a signal
    for a job that is put to sleep without it, and a step be done and not recorded. Calls that are about to end the
    attempt do not wait for each other.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a call until it ends."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def settle(self) -> None:
        """Wait, in a counted call, until no other is in flight that is not waiting here."""
        self._add(-1)
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0)
            self._count += 1

    async def asettle(self) -> None:
        """The async twin of `settle`."""
        self._add(-1)
        loop = asyncio.get_running_loop()
        try:
            while (stands := self._future(loop)) is not None:
                await stands
        finally:
            self._add(1)

    def _future(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[None] | None":
        """Return a future of the end of what is in flight; None if nothing is."""
        with self._changed:
            if self._count == 0:
                return None
            self._waiting.append((loop, loop.create_future()))
            return self._waiting[-1][1]

    def _add(self, more: int) -> None:
        with self._changed:
            self._count += more
            if self._count > 0:
                return
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            loop.call_soon_threadsafe(_end, future)


def _end(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
