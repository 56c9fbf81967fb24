"""The duty that listens for changes of schedules. The NOTIFY is a hint: the duties it wakes poll all the same."""

from collections.abc import Sequence

from pgqueue.app import App
from pgqueue.db.link import DEADLINE, Link
from pgqueue.process.debounce import Debounced
from pgqueue.process.duty import Duty
from pgqueue.process.heartbeat import Identity
from pgqueue.queries.schedules.fire import SCHEDULE_PAYLOAD
from pgqueue.queries.workers import REQUEST_PAYLOAD

PING_SECONDS = 30.0


class ScheduleListener(Duty):
    """Wakes the duties that read schedules when one was changed, and the heartbeat when an operator asks something."""

    name = "listen"
    interruptible = True

    def __init__(self, app: App, link: Link, identity: Identity, duties: Sequence[Duty]) -> None:
        super().__init__(link)
        self._queries = app.queries
        self._identity = identity
        self._duties = duties

    async def step(self) -> float:
        """Listen for a while. Each step sends LISTEN again, which shows whether the connection still works."""
        async with self.link.connection(PING_SECONDS + DEADLINE) as conn:
            await conn.execute(self._queries.workers.listen().sql)
            wake, request_made = Debounced(self._wake_all), Debounced(self._identity.beat_soon)
            wake()  # a change that was committed before LISTEN has woken no duty
            async for notification in conn.notifies(timeout=PING_SECONDS):
                if notification.payload == SCHEDULE_PAYLOAD:
                    wake()
                elif notification.payload == f"{REQUEST_PAYLOAD}{self._identity.id}":
                    request_made()
        return 0.0

    def _wake_all(self) -> None:
        for duty in self._duties:
            duty.wake()
