"""The duty that stops this worker's jobs when its heartbeat does not get through."""

import logging
import sys
import threading

from pgqueue.db.link import Link
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.timing import monotonic
from pgqueue.worker.signals import WorkerSignals

log = logging.getLogger("pgqueue.worker")


class Watchdog(Duty):
    """Stops this worker's jobs when it could not beat for most of its lease: others may take them any moment.

    It needs no database, so it works when that is out of reach. When a heartbeat gets through again the worker goes on,
    and releases the jobs that it had dropped, unless others have taken them.
    """

    name = "watchdog"
    uses_database = False

    def __init__(self, link: Link, identity: Identity, signals: WorkerSignals) -> None:
        super().__init__(link)
        self._identity = identity
        self._signals = signals
        self._overdue = False
        self._blocked = False
        self._loop_thread = threading.get_ident()

    def check_event_loop(self) -> None:
        """From another thread: log once when the event loop has not turned for a quarter of a lease, and where it is.

        Such a worker keeps its lease, but it sees no cancellation, and only the last resort of a stop ends it.
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
        """Look at the heartbeat once."""
        if self._identity.overdue != self._overdue:
            self._overdue = not self._overdue
            if self._overdue:
                log.error("no heartbeat got through for most of a lease: this worker drops its jobs and takes no more")
                self._signals.heartbeat_overdue()
            else:
                log.warning("heartbeats get through again: this worker goes on")
                self._signals.heartbeat_recovered()
        if self._overdue:
            self._identity.sever()
        return self._identity.info.lease_seconds / 16
