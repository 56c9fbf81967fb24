"""How one schema of a fleet rests while it is idle, and how the log tells of its troubles: once."""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from pgqueue.app import App
from pgqueue.db.failures import DATABASE_ERRORS, brief
from pgqueue.db.link import Link
from pgqueue.errors import NotMigrated
from pgqueue.process.duty import Duty
from pgqueue.process.heart import SharedIdentity
from pgqueue.queries.workers import Watched
from pgqueue.timing import monotonic
from pgqueue.worker.budget import SharedSlots
from pgqueue.worker.claiming.producer import Producer
from pgqueue.worker.fleet.server import OF_ONE, Server
from pgqueue.worker.host import Hears, Host

log = logging.getLogger("pgqueue.worker")
AWAKE_SECONDS = 5.0  # after its last job, or its start, before a schema rests
SELDOM = 600.0  # seconds between two looks of a duty while its schema rests: a notification, or the heartbeat, wakes it
# The least seconds between two steps of each duty meanwhile. Nothing notifies of an operation that SQL has asked for,
# nor of a new queue that a pattern matches.
RESTS = {
    "rescue": SELDOM, "pauses": SELDOM, "signals": SELDOM, "workflows": SELDOM, "gone": SELDOM,
    "sweep": SELDOM, "results": SELDOM, "prune": SELDOM, "sweep steps": SELDOM, "announce": SELDOM, "operations": 60.0,
    "find queues": 20.0,
}  # fmt: skip
WOKEN = ("rescue", "pauses", "signals", "workflows", "find queues")  # duties that matter to jobs that run


class Resting(Host):
    """The host of one schema: links and a listener that all share, and rest while the schema is idle.

    A schema rests when it has had no job for some seconds, knows of none, and notifications arrive. Then its duties
    look seldom, and the heartbeat, which goes on as before, looks for what nobody is notified of: jobs that are due
    because their time has come, and processes that have died.
    """

    def __init__(self, server: Server, app: App) -> None:
        self._server = server
        self._schema, self._queries = app.schema, app.queries
        self._turns = asyncio.Semaphore(OF_ONE)
        self._duties: dict[str, Duty] = {}
        self._failing: set[str] = set()
        self._rests = False  # read by the thread of the heart
        self._busy_at = monotonic()
        self._slots: SharedSlots | None = None
        self._loop = asyncio.get_running_loop()
        self.missing: asyncio.Future[NotMigrated] = self._loop.create_future()  # why it cannot go on

    def attend(self, slots: SharedSlots, identity: SharedIdentity) -> None:
        """Let the schema rest when its slots are empty, and have its heartbeat look meanwhile."""
        self._slots = slots
        slots.busy = self._wake_up
        identity.watches = self._watched_queues
        identity.on_found = lambda found: self._loop.call_soon_threadsafe(self._found, found)
        identity.on_failure = lambda error: self._loop.call_soon_threadsafe(self._beat_failed, error)
        identity.on_recovery = lambda: self._loop.call_soon_threadsafe(self._works, "heartbeat")

    def link(self, app: App, name: str) -> Link:
        """Return a link of the worker to its database."""
        return self._server.link(name, self._turns)

    def shares_listener(self, hears: Hears) -> bool:
        """Whether the process listens for the worker."""
        listener = self._server.listener
        if listener is not None:
            listener.join(self._schema, self._queries, hears)
        return listener is not None

    def poll_seconds(self, given: float) -> float:
        """Return the seconds between two looks for jobs without a notification."""
        return SELDOM if self._rests else given

    def watch(self, duty: Duty) -> Duty:
        """Return a duty that the worker will run."""
        self._duties[duty.name] = duty
        duty.rest, duty.tells = partial(self._least_pause, RESTS.get(duty.name, 0.0)), self._tells
        return duty

    def leave(self) -> None:
        """Let nobody listen for the schema."""
        if self._server.listener is not None:
            self._server.listener.leave(self._schema)

    def _least_pause(self, seconds: float) -> float:
        self._rests = self._may_rest()
        return seconds if self._rests else 0.0

    def _may_rest(self) -> bool:
        claims, slots, listener = self._duties.get("claim"), self._slots, self._server.listener
        if not isinstance(claims, Producer) or slots is None or listener is None:
            return False
        if slots.running or slots.waiting or not claims.has_nothing_to_do:
            self._busy_at = monotonic()
        idle = monotonic() - self._busy_at > AWAKE_SECONDS
        return idle and not self._failing and listener.listens_for(self._schema)

    def _watched_queues(self) -> Sequence[str] | None:
        return self._slots.queues if self._rests and self._slots is not None else None

    def _wake_up(self) -> None:
        rested, self._rests, self._busy_at = self._rests, False, monotonic()
        for name in WOKEN if rested else ():
            if (duty := self._duties.get(name)) is not None:
                duty.wake()

    def _found(self, found: Watched) -> None:
        """Act on what the heartbeat has found."""
        claims, rescuer = self._duties.get("claim"), self._duties.get("rescue")
        if found.lost and rescuer is not None:
            rescuer.wake()
        if isinstance(claims, Producer):
            if found.metered:
                claims.rules_changed()
            elif found.due_seconds is not None:
                claims.due_in(found.due_seconds)

    def _beat_failed(self, error: Exception) -> None:
        if self._tells_first("heartbeat", error):
            log.warning("heartbeat failed, trying again: %s: %s", type(error).__name__, brief(error))

    def _tells(self, duty: Duty, error: Exception | None) -> bool:
        """Whether the log tells of a failure of a duty, or of its end: of the first one alone, and when all work."""
        if error is not None:
            return self._tells_first(duty.name, error)
        self._works(duty.name, "heartbeat")
        return False

    def _works(self, *whats: str) -> None:
        failed = bool(self._failing)
        self._failing -= {*whats}
        if failed and not self._failing:
            log.info("schema %s works again", self._schema)

    def _tells_first(self, what: str, error: Exception) -> bool:
        if isinstance(error, NotMigrated):
            if not self.missing.done():
                self.missing.set_result(error)
            return False
        if not isinstance(error, DATABASE_ERRORS):
            return True
        is_first = not self._failing
        self._failing.add(what)
        return is_first
