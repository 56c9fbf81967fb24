"""Two duties that stop jobs: somebody wants them cancelled, or this worker cannot be heard any more."""

import logging
import sys
import threading
from collections.abc import Callable

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.timing import monotonic

log = logging.getLogger("pgqueue.worker")


class Watchdog(Duty):
    """Stops this worker's jobs when it could not beat for most of its lease: others may take them any moment.

    Nobody needs to tell it, so it works with the database out of reach. When a heartbeat gets through again the worker
    goes on; what it had dropped is given back, if nobody has taken it.
    """

    name = "watch"

    def __init__(
        self, link: Link, identity: Identity, on_silent: Callable[[], object], on_heard: Callable[[], object]
    ) -> None:
        super().__init__(link)
        self._identity = identity
        self._on_silent = on_silent
        self._on_heard = on_heard
        self._silent = False
        self._blocked = False
        self._loop_thread = threading.get_ident()

    def look_from_outside(self) -> None:
        """In another thread: tell once when the event loop has not turned for a quarter of a lease, and what it is at.

        Such a worker keeps its lease, but it hears of no cancellation, and stops only by the last resort.
        """
        waited = monotonic() - self.succeeded_at if self.succeeded_at else 0.0
        blocked = waited > max(self._identity.info.lease_seconds / 4, 1.0)
        if blocked and not self._blocked:
            frame = sys._current_frames().get(self._loop_thread)
            where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame else "unknown"
            log.error(
                "the event loop has been blocked for %.1f s, now by %s: an async task must not block", waited, where
            )
        self._blocked = blocked

    async def step(self) -> float:
        """Look once. Needs no database."""
        if self._identity.silent != self._silent:
            self._silent = not self._silent
            if self._silent:
                log.error("no heartbeat got through for most of a lease: this worker drops its jobs and takes no more")
                self._on_silent()
            else:
                log.warning("heartbeats get through again: this worker goes on")
                self._on_heard()
        if self._silent:
            self._identity.sever()
        return self._identity.info.lease_seconds / 16
